//! One pass over the bytes of a file.

use std::io::{ErrorKind, Read};

use sha2::{Digest, Sha256};

/// Bytes read at a time, so that memory does not depend on the file's size.
const BUFFER_BYTES: usize = 64 << 10;

/// Facts found in one pass.
pub(crate) struct Scan {
    /// SHA-256 in hexadecimal digits.
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
    /// Number of lines; a last one without a line feed counts.
    pub(crate) lines: u64,
    /// Number of words: runs of bytes other than ASCII white space.
    pub(crate) words: u64,
    /// Length of the longest line in bytes, without its line feed.
    pub(crate) longest_line: u64,
}

/// Reads a file to its end.
pub(crate) fn scan(mut file: impl Read) -> std::io::Result<Scan> {
    let mut hasher = Sha256::new();
    let mut counter = Counter::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        hasher.update(chunk);
        for byte in chunk {
            counter.take(*byte);
        }
    }
    Ok(counter.end(format!("{:x}", hasher.finalize())))
}

#[derive(Default)]
struct Counter {
    bytes: u64,
    lines: u64,
    words: u64,
    longest_line: u64,
    /// Bytes of the line so far.
    line: u64,
    in_word: bool,
}

impl Counter {
    fn take(&mut self, byte: u8) {
        self.bytes += 1;
        // ASCII white space as in the C library: `is_ascii_whitespace` lacks the vertical tab.
        let space = byte.is_ascii_whitespace() || byte == b'\x0b';
        self.words += u64::from(!space && !self.in_word);
        self.in_word = !space;
        if byte == b'\n' {
            self.end_line();
        } else {
            self.line += 1;
        }
    }

    fn end_line(&mut self) {
        self.lines += 1;
        self.longest_line = self.longest_line.max(self.line);
        self.line = 0;
    }

    fn end(mut self, sha256: String) -> Scan {
        if self.line > 0 {
            self.end_line();
        }
        Scan { sha256, bytes: self.bytes, lines: self.lines, words: self.words, longest_line: self.longest_line }
    }
}
