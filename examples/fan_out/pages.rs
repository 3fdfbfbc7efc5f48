//! Counts of a text, page by page.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use everstep::{Dep, LoopResult, TaskContext};
use serde::{Deserialize, Serialize};

use crate::files::FileName;
use crate::kind::Look;
use crate::source::Source;

/// Bytes that one iteration of the loop reads.
pub(crate) const PAGE_BYTES: u64 = 64 << 10;

/// Counts of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Number of lines; a last one without a line feed counts.
    pub(crate) lines: u64,
    /// Number of words: runs of bytes other than ASCII white space.
    pub(crate) words: u64,
    pub(crate) bytes: u64,
}

/// The value that the loop carries from page to page.
#[derive(Serialize, Deserialize)]
pub(crate) struct Pages {
    name: FileName,
    /// Counts of the pages so far; their bytes are the offset of the next one.
    counts: Counts,
    in_word: bool,
    in_line: bool,
}

/// Task: makes the value for the first page.
pub(crate) async fn begin(look: Look) -> std::io::Result<Pages> {
    Ok(Pages { name: look.name, counts: Counts::default(), in_word: false, in_line: false })
}

/// Task: counts one page, and returns `Done` after the last one.
pub(crate) async fn page(
    mut pages: Pages,
    source: Dep<Source>,
    context: TaskContext,
) -> std::io::Result<LoopResult<Pages, Counts>> {
    source.note(&context, &format!("{} {}", pages.name.0, pages.counts.bytes))?;
    let page = read(&source, &pages).map_err(|error| pages.name.failed(&error))?;
    pages.take(&page);
    if page.len() as u64 == PAGE_BYTES {
        return Ok(LoopResult::Again(pages));
    }
    Ok(LoopResult::Done(pages.counts))
}

fn read(source: &Source, pages: &Pages) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(source.at(&pages.name))?;
    file.seek(SeekFrom::Start(pages.counts.bytes))?;
    let mut page = Vec::new();
    file.take(PAGE_BYTES).read_to_end(&mut page)?;
    Ok(page)
}

impl Pages {
    fn take(&mut self, page: &[u8]) {
        for byte in page {
            let is_space = byte.is_ascii_whitespace();
            self.counts.words += u64::from(!is_space && !self.in_word);
            self.counts.lines += u64::from(!self.in_line);
            (self.in_word, self.in_line) = (!is_space, *byte != b'\n');
        }
        self.counts.bytes += page.len() as u64;
    }
}
