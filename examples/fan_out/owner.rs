//! Whose data directory it is: the report of one directory must not go on as that of another.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::stop::Stop;

/// What a data directory was made for: `job.json` in it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The directory that the report is of.
    path: String,
    /// Whether the report waits for an approval: a job keeps to how it was begun.
    pub(crate) approve: bool,
}

impl Owner {
    /// Compares with the owner that is there, or becomes it: of an empty directory, or of the job that begins anew. Called
    /// under the store's lock.
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

    /// Writes beside and renames, so that a kill leaves a whole file or none.
    fn write(self, at: &Path) -> Result<Self, Stop> {
        let beside = at.with_extension("json.new");
        let written = serde_json::to_vec(&self).map_err(Into::into).and_then(|bytes| fs::write(&beside, bytes));
        written.and_then(|()| fs::rename(&beside, at)).map_err(|error| Stop::io("write", at, error))?;
        Ok(self)
    }
}
