//! Positions in a list of instances.

use std::fmt;
use std::str::FromStr;

use super::list::InstanceSummary;
use crate::id::{DefinitionHash, InstanceId};
use crate::status::StatusCode;

/// A position in the order in which instances are listed. Its text can leave the process, and
/// reveals nothing that the list does not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListCursor {
    pub(super) section: Section,
    pub(super) after: InstanceId,
}

/// Error of a text that is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid cursor: pass one returned by Runtime::list, or none to start over")]
pub struct ParseCursorError;

/// A section of the list: instances that the store lists together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Status(DefinitionHash, StatusCode),
    Quarantined,
}

impl ListCursor {
    pub(super) fn after(listed: &InstanceSummary) -> Self {
        let section = match listed.definition {
            Some(definition) if listed.status != StatusCode::Quarantined => Section::Status(definition, listed.status),
            _ => Section::Quarantined,
        };
        Self { section, after: listed.instance.clone() }
    }
}

/// Shows the status code, the definition unless the instance is quarantined, and the instance id.
impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.section {
            Section::Status(definition, status) => write!(f, "{}{definition}{}", status as u8, self.after),
            Section::Quarantined => write!(f, "{}{}", StatusCode::Quarantined as u8, self.after),
        }
    }
}

impl FromStr for ListCursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let parse = || {
            let (status, rest) = text.split_at_checked(1)?;
            let (section, after) = match StatusCode::from_u8(status.parse().ok()?)? {
                StatusCode::Quarantined => (Section::Quarantined, rest),
                status => {
                    let (definition, after) = rest.split_at_checked(64)?;
                    (Section::Status(definition.parse().ok()?, status), after)
                }
            };
            Some(Self { section, after: InstanceId::stored(after).ok()? })
        };
        parse().ok_or(ParseCursorError)
    }
}
