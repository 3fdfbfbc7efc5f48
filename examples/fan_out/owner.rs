//! The owner of a data directory: the report of one directory must not continue as that of another.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::stop::Stop;

/// The job of a data directory, in its file `job.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The directory that the report is about.
    path: String,
    /// True if the report waits for an approval. Fixed when the job begins.
    pub(crate) approve: bool,
}

impl Owner {
    /// Compares with the existing owner, or writes one: if the directory is empty, or if the job
    /// starts from the beginning. Called under the store's lock.
    pub(crate) fn check(data: &Path, root: &Path, approve: bool, again: bool) -> Result<Self, Stop> {
        let at = data.join("job.json");
        let ours = Self { path: root.to_string_lossy().into_owned(), approve };
        let theirs: Self = match fs::read(&at) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| Stop::NotAnOwner(at.clone()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return ours.write(&at),
            Err(error) => return Err(Stop::io("read", &at, error)),
        };
        if theirs.path != ours.path {
            return Err(Stop::OtherJob { data: data.to_owned(), theirs: theirs.path, ours: ours.path });
        }
        if again {
            return ours.write(&at);
        }
        if ours.approve && !theirs.approve {
            return Err(Stop::BegunWithoutApproval(data.to_owned()));
        }
        Ok(theirs)
    }

    /// Writes a new file and renames it, so that a kill leaves a whole file or none.
    fn write(self, at: &Path) -> Result<Self, Stop> {
        let beside = at.with_extension("json.new");
        let written = serde_json::to_vec(&self).map_err(Into::into).and_then(|bytes| fs::write(&beside, bytes));
        written.and_then(|()| fs::rename(&beside, at)).map_err(|error| Stop::io("write", at, error))?;
        Ok(self)
    }
}
