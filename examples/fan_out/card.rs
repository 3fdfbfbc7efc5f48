//! The card of one file: what all that was found out about it is joined into.

use std::convert::Infallible;

use everstep::{Dep, TaskContext};
use serde::{Deserialize, Serialize};

use crate::files::FileName;
use crate::hash::Hashed;
use crate::kind::{Kind, Look};
use crate::pages::Counts;
use crate::progress::Progress;
use crate::source::Source;

/// What the report has of one file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) name: FileName,
    pub(crate) kind: Kind,
    pub(crate) bytes: u64,
    /// In hexadecimal digits; none if there is nothing to hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lines: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) words: Option<u64>,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

impl From<Look> for Card {
    fn from(look: Look) -> Self {
        let Look { name, kind, bytes, problem } = look;
        Self { name, kind, bytes, sha256: None, lines: None, words: None, problem }
    }
}

/// Task: joins what the branches gave, in their order.
pub(crate) async fn text_card((hashed, counts): (Hashed, Counts)) -> Result<Card, Infallible> {
    let Counts { lines, words, bytes } = counts;
    let card = Card::from(hashed.look);
    Ok(Card { sha256: Some(hashed.sha256), lines: Some(lines), words: Some(words), bytes, ..card })
}

/// Task: a binary file has a hash, and nothing to count.
pub(crate) async fn binary_card(hashed: Hashed) -> Result<Card, Infallible> {
    Ok(Card { sha256: Some(hashed.sha256), ..hashed.look.into() })
}

/// Task: of an empty or unreadable file there is only what the look showed.
pub(crate) async fn rest_card(look: Look) -> Result<Card, Infallible> {
    Ok(look.into())
}

/// Task: the last of each file, so that its recorded result says that the file is done.
pub(crate) async fn finish(
    card: Card,
    source: Dep<Source>,
    progress: Dep<Progress>,
    context: TaskContext,
) -> std::io::Result<Card> {
    source.note(&context, &card.name.0)?;
    progress.one(card.name.clone());
    Ok(card)
}
