//! The eras of a run: each upgrade begins one. Rows stored in an earlier era are found by the names
//! of that era's definition.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record::{UNKNOWN, decode, encode};
use super::{Damaged, RowKey, Snapshot};
use crate::definition::Renames;
use crate::id::DefinitionHash;

/// An era that an upgrade ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Era {
    /// The definition that the run had.
    pub(crate) definition: DefinitionHash,
    /// How names changed at the era's end.
    pub(crate) renames: Renames,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EraRecord {
    definition: Bytes,
    #[serde(default, skip_serializing_if = "Renames::is_empty")]
    renames: Renames,
}

pub(super) fn encode_era(era: &Era) -> Vec<u8> {
    let definition = Bytes::copy_from_slice(era.definition.as_bytes());
    encode(&EraRecord { definition, renames: era.renames.clone() }, Vec::new())
}

/// Returns the definition that the body of an era's row names; none if the body is of a newer
/// version.
#[cfg(feature = "file-store")]
pub(crate) fn definition_of_era(body: &Bytes) -> Option<DefinitionHash> {
    let EraRecord { definition, .. } = decode(body)?;
    definition.as_ref().try_into().ok().map(DefinitionHash)
}

impl Snapshot {
    /// Opens the row of an earlier era.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn open_era(&self, number: u32, row: &Bytes) -> Result<Era, Damaged> {
        let body = self.open_row(&RowKey::Era(number), row)?.1;
        let unknown = || Damaged::newer(&self.instance, "era", UNKNOWN);
        let EraRecord { definition, renames } = decode(&body).ok_or_else(unknown)?;
        let definition = definition.as_ref().try_into().map_err(|_| unknown())?;
        Ok(Era { definition: DefinitionHash(definition), renames })
    }
}
