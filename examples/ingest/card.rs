//! The card of a data directory names its job: two jobs with the same file names must not share
//! one.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::stop::Stop;

/// The job of a data directory.
#[derive(Serialize, Deserialize)]
pub(crate) struct Card {
    /// The directory to ingest.
    path: String,
    /// True if files wait for an approval. Fixed when the job begins.
    pub(crate) approve: bool,
}

impl Card {
    /// Compares with the existing card, or writes one. Called under the store's lock.
    pub(crate) fn read_or_write(data: &Path, root: &Path, approve: bool) -> Result<Self, Stop> {
        let at = data.join("job.json");
        let ours = Self { path: root.to_string_lossy().into_owned(), approve };
        match fs::read(&at) {
            Ok(bytes) => {
                let theirs: Self = serde_json::from_slice(&bytes).map_err(|_| Stop::NotACard(at))?;
                ours.agree_with(theirs, data)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ours.write(&at).map_err(|error| Stop::io("write", &at, error))?;
                Ok(ours)
            }
            Err(error) => Err(Stop::io("read", &at, error)),
        }
    }

    fn agree_with(self, theirs: Self, data: &Path) -> Result<Self, Stop> {
        if theirs.path != self.path {
            return Err(Stop::OtherJob { data: data.to_owned(), theirs: theirs.path, ours: self.path });
        }
        if self.approve && !theirs.approve {
            return Err(Stop::BegunWithoutApproval(data.to_owned()));
        }
        Ok(theirs)
    }

    /// Writes a new file and renames it, so that a kill leaves a whole card or none.
    fn write(&self, at: &Path) -> std::io::Result<()> {
        let beside = at.with_extension("json.new");
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(&beside, at)
    }
}
