//! The kind of a file: the key of the route.

use std::fs::File;
use std::io::Read;

use everstep::{Dep, TaskContext};
use serde::{Deserialize, Serialize};

use crate::files::FileName;
use crate::pages::PAGE_BYTES;
use crate::source::Source;

everstep::route_key! {
    /// The kind of a file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub(crate) enum Kind {
        /// Valid UTF-8 in the first page.
        Text,
        /// Any other content.
        Binary,
        /// No bytes at all.
        Empty,
        /// A file that cannot be opened or read.
        Unreadable,
    }
}

/// Result of one look at a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    pub(crate) name: FileName,
    pub(crate) kind: Kind,
    /// The file's size.
    pub(crate) bytes: u64,
    /// The reason why the file cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// Task: reads a file's first page. An unreadable file is a result, not a failure.
pub(crate) async fn look(name: FileName, source: Dep<Source>, context: TaskContext) -> std::io::Result<Look> {
    source.note(&context, &name.0)?;
    Ok(match first_page(&source, &name) {
        Ok((page, bytes)) => Look { kind: kind_of(&page), name, bytes, problem: None },
        Err(error) => Look { kind: Kind::Unreadable, name, bytes: 0, problem: Some(error.to_string()) },
    })
}

/// Reads the first page, and the whole size.
fn first_page(source: &Source, name: &FileName) -> std::io::Result<(Vec<u8>, u64)> {
    let file = File::open(source.at(name))?;
    let bytes = file.metadata()?.len();
    let mut page = Vec::new();
    file.take(PAGE_BYTES).read_to_end(&mut page)?;
    Ok((page, bytes))
}

fn kind_of(page: &[u8]) -> Kind {
    match std::str::from_utf8(page) {
        _ if page.is_empty() => Kind::Empty,
        _ if page.contains(&0) => Kind::Binary,
        // The page may end within a character; the text is valid all the same.
        Err(error) if error.error_len().is_some() => Kind::Binary,
        _ => Kind::Text,
    }
}
