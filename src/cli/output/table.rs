//! Tables: a header, one line for each row, statuses in colour.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};

use super::Printable;
use crate::cli::terminal::{escape, style};

/// Header of the column that is coloured.
const STATUS: &str = "STATUS";
/// Padding of a cell, left and right.
const GAP: (u16, u16) = (0, 3);

/// Writes a table with one line for each row. Lines do not wrap, so that `grep` and `cut` see whole rows.
pub(super) fn write<T: Printable>(out: &mut impl Write, items: &[T], wide: bool) -> io::Result<()> {
    let (narrow, more) = T::columns();
    let columns: Vec<&str> = narrow.into_iter().chain(more.iter().copied().filter(|_| wide)).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(&columns);
    let status_column = columns.iter().position(|column| *column == STATUS);
    let mut statuses = vec![String::new()];
    for item in items {
        let cells: Vec<String> =
            item.cells().iter().take(columns.len()).map(|cell| escape(cell).into_owned()).collect();
        statuses.push(status_column.and_then(|at| cells.get(at)).cloned().unwrap_or_default());
        table.add_row(cells);
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding(GAP);
    });
    let mut status_offset = None;
    for (line, status) in table.lines().zip(statuses) {
        let line = line.trim_end();
        // The columns before the status are ASCII only, so the status begins in every row where its header does.
        let offset = *status_offset.get_or_insert_with(|| line.find(STATUS));
        match offset.and_then(|offset| line.split_at_checked(offset)) {
            Some((before, rest)) if !status.is_empty() && rest.starts_with(&status) => {
                let style = style(&status);
                let after = &rest[status.len()..];
                writeln!(out, "{before}{style}{status}{style:#}{after}")?;
            }
            _ => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}
