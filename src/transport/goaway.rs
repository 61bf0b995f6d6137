//! GOAWAY frames with a reason.
//!
//! hyper sends GOAWAY on a graceful shutdown, and has no way to give a reason. So this module parses the frames that hyper writes, and adds the reason to
//! the GOAWAY frames of a rejected connection.

use bytes::{BufMut as _, BytesMut};

/// Bytes of a frame header: length (3), type, flags, stream (4).
const HEADER_BYTES: usize = 9;
const GOAWAY: u8 = 7;
/// Bytes of a GOAWAY payload before its text: last stream (4), error code (4).
const FIXED_PAYLOAD_BYTES: usize = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Empty SETTINGS frame, the first frame of a server.
pub(super) const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Encodes a GOAWAY frame with `ENHANCE_YOUR_CALM`. `last_stream`: the last stream that is served.
pub(super) fn go_away(last_stream: u32, reason: &str) -> Vec<u8> {
    let length = u32::try_from(FIXED_PAYLOAD_BYTES + reason.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + FIXED_PAYLOAD_BYTES + reason.len());
    frame.extend_from_slice(&length.to_be_bytes()[1..]);
    frame.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&last_stream.to_be_bytes());
    frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

/// Position in a sequence of frames.
#[derive(Debug, Default)]
pub(super) struct FrameCursor {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header seen so far.
    seen: usize,
    /// Set when a part of that header has already been written.
    passed: bool,
    /// Number of payload bytes that follow.
    left: usize,
    /// Payload so far of a GOAWAY frame that is replaced.
    replaced: Option<Vec<u8>>,
}

impl FrameCursor {
    /// Advances over bytes that are written unchanged.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        self.walk(bytes, None);
    }

    /// Appends the bytes to `to`, with the reason in each GOAWAY frame that begins among them.
    pub(super) fn rewrite(&mut self, bytes: &[u8], reason: &str, to: &mut BytesMut) {
        self.walk(bytes, Some((reason, to)));
    }

    fn walk(&mut self, mut bytes: &[u8], mut rewriting: Option<(&str, &mut BytesMut)>) {
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.walk_header(bytes, rewriting.as_mut().map(|(_, to)| &mut **to));
                continue;
            }
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            bytes = rest;
            self.left -= part.len();
            match (&mut self.replaced, &mut rewriting) {
                (Some(payload), Some((reason, to))) => {
                    payload.extend_from_slice(part);
                    if self.left == 0 {
                        to.put_slice(&go_away(last_stream(payload), reason));
                        self.replaced = None;
                    }
                }
                (None, Some((_, to))) => to.put_slice(part),
                (_, None) => {}
            }
        }
    }

    fn walk_header<'a>(&mut self, bytes: &'a [u8], to: Option<&mut BytesMut>) -> &'a [u8] {
        let (part, rest) = bytes.split_at((HEADER_BYTES - self.seen).min(bytes.len()));
        self.header[self.seen..self.seen + part.len()].copy_from_slice(part);
        self.seen += part.len();
        let whole = self.seen == HEADER_BYTES;
        match to {
            None => self.passed = true,
            Some(to) if self.passed => to.put_slice(part),
            Some(_) if whole && self.header[3] == GOAWAY => self.replaced = Some(Vec::new()),
            Some(to) if whole => to.put_slice(&self.header),
            Some(_) => {}
        }
        if whole {
            let [a, b, c, ..] = self.header;
            self.left = u32::from_be_bytes([0, a, b, c]) as usize;
            (self.seen, self.passed) = (0, false);
        }
        rest
    }
}

/// Reads the last stream that a GOAWAY frame names.
fn last_stream(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |id| u32::from_be_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    fn plain_go_away() -> Vec<u8> {
        frame(GOAWAY, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])
    }

    #[test]
    fn goaway_gets_its_reason_however_the_bytes_are_split() {
        let data = frame(0, &[7; 300]);
        let written = [&data[..], &plain_go_away(), &frame(6, &[1; 8]), &data].concat();
        let expected = [&data[..], &go_away(0x7fff_ffff, "calm"), &frame(6, &[1; 8]), &data].concat();
        for size in [1, 2, 8, 9, 10, 17, 100, written.len()] {
            let (mut cursor, mut out) = (FrameCursor::default(), BytesMut::new());
            for part in written.chunks(size) {
                cursor.rewrite(part, "calm", &mut out);
            }
            assert_eq!(out, expected, "{size}");
        }
    }

    #[test]
    fn frame_that_is_partly_written_is_not_changed() {
        let written = [plain_go_away(), frame(6, &[1; 8]), plain_go_away()].concat();
        for begun in 1..17 + 17 {
            let (mut cursor, mut out) = (FrameCursor::default(), BytesMut::from(&written[..begun]));
            cursor.follow(&written[..begun]);
            cursor.rewrite(&written[begun..], "calm", &mut out);
            let expected = [&written[..34], &go_away(0x7fff_ffff, "calm")].concat();
            assert_eq!(out, expected, "{begun}");
        }
    }
}
