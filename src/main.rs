//! The `callboard` binary, which is a call to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    callboard::cli::run()
}
