//! What kind of file it is: the key of the route.

use std::fs::File;
use std::io::Read;

use everstep::{Dep, TaskContext};
use serde::{Deserialize, Serialize};

use crate::files::FileName;
use crate::pages::PAGE_BYTES;
use crate::source::Source;

everstep::route_key! {
    /// What kind of file it is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub(crate) enum Kind {
        /// UTF-8, as far as the first page shows.
        Text,
        /// Anything else.
        Binary,
        /// No bytes at all.
        Empty,
        /// Not to be opened or read.
        Unreadable,
    }
}

/// What one look at a file shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    pub(crate) name: FileName,
    pub(crate) kind: Kind,
    /// The file's size.
    pub(crate) bytes: u64,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// Task: looks at a file's first page. A file that cannot be read is a finding, not a failure.
pub(crate) async fn look(name: FileName, source: Dep<Source>, context: TaskContext) -> std::io::Result<Look> {
    source.note(&context, &name.0)?;
    Ok(match first_page(&source, &name) {
        Ok((page, bytes)) => Look { kind: kind_of(&page), name, bytes, problem: None },
        Err(error) => Look { kind: Kind::Unreadable, name, bytes: 0, problem: Some(error.to_string()) },
    })
}

/// The first page, and the whole size.
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
        // The page may end within a character, which is no error of the text.
        Err(error) if error.error_len().is_some() => Kind::Binary,
        _ => Kind::Text,
    }
}
