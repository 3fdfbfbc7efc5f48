//! The card of one file: all facts about it, joined.

use std::convert::Infallible;

use everstep::{Dep, TaskContext};
use serde::{Deserialize, Serialize};

use crate::files::FileName;
use crate::hash::Hashed;
use crate::kind::{Kind, Look};
use crate::pages::Counts;
use crate::progress::Progress;
use crate::source::Source;

/// The report's entry for one file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) name: FileName,
    pub(crate) kind: Kind,
    pub(crate) bytes: u64,
    /// SHA-256 in hexadecimal digits; absent if there is nothing to hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lines: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) words: Option<u64>,
    /// The reason why the file cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

impl From<Look> for Card {
    fn from(look: Look) -> Self {
        let Look { name, kind, bytes, problem } = look;
        Self { name, kind, bytes, sha256: None, lines: None, words: None, problem }
    }
}

/// Task: joins the outputs of the branches, in their order.
pub(crate) async fn text_card((hashed, counts): (Hashed, Counts)) -> Result<Card, Infallible> {
    let Counts { lines, words, bytes } = counts;
    let card = Card::from(hashed.look);
    Ok(Card { sha256: Some(hashed.sha256), lines: Some(lines), words: Some(words), bytes, ..card })
}

/// Task: makes the card of a binary file, which has a hash and nothing to count.
pub(crate) async fn binary_card(hashed: Hashed) -> Result<Card, Infallible> {
    Ok(Card { sha256: Some(hashed.sha256), ..hashed.look.into() })
}

/// Task: makes the card of an empty or unreadable file, from its first look alone.
pub(crate) async fn rest_card(look: Look) -> Result<Card, Infallible> {
    Ok(look.into())
}

/// Task: the last one of each file, so that its recorded result shows that the file is done.
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
