//! The files below a directory.

use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::path::{MAIN_SEPARATOR_STR, Path, PathBuf};

use everstep::{BoxError, Dep, Limits, Permanent, TaskContext};
use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::source::Source;
use crate::stop::Stop;

/// Directories that are skipped directly in the root: the repository's own and build output.
const LEFT_OUT: [&str; 2] = [".git", "target"];

/// A file's path below the root, with forward slashes. No more than that: the list of all of them
/// is the output of one task, and the list of a map is limited to 64 MiB
/// ([`Limits::list_bytes_max`]).
///
/// Bytes that are not UTF-8 are replaced. Such a file is then not found by this name, and its card
/// says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FileName(pub(crate) String);

impl FileName {
    fn new(path: &Path) -> Self {
        Self(path.to_string_lossy().replace(MAIN_SEPARATOR_STR, "/"))
    }
}

/// Returns the directory, without links and dots.
pub(crate) fn root(path: &Path) -> Result<PathBuf, Stop> {
    let root = path.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Stop::NoSuchPath(path.to_owned()),
        _ => Stop::io("open", path, error),
    })?;
    if root.is_dir() { Ok(root) } else { Err(Stop::NotADirectory(path.to_owned())) }
}

/// Task: lists the files, in order. From here on the job uses this list, even if files come and go.
pub(crate) async fn list(
    (): (),
    source: Dep<Source>,
    progress: Dep<Progress>,
    context: TaskContext,
) -> Result<Vec<FileName>, BoxError> {
    source.note(&context, "")?;
    let files = walk(&source)?;
    let (count, count_max) = (files.len(), Limits::default().list_items_max);
    if count > count_max {
        // The map would refuse the list too, but only after it was recorded, and retries would be
        // in vain.
        let many = format!("{count} files: at most {count_max} fit one list; pass a directory within this one");
        return Err(Permanent::new(many).into());
    }
    progress.found(files.len());
    Ok(files)
}

/// Lists all files. Links are not followed, since they may form a circle, and devices are not
/// files. A directory that cannot be listed is in the list itself: the look at it reports why.
fn walk(source: &Source) -> std::io::Result<Vec<FileName>> {
    let mut files = Vec::new();
    // Directories still to be listed: an explicit queue, so that deep trees need no deep call
    // stack.
    let mut open = VecDeque::from([PathBuf::new()]);
    while let Some(directory) = open.pop_front() {
        let at_root = directory.as_os_str().is_empty();
        let entries = match fs::read_dir(source.root().join(&directory)) {
            Ok(entries) => entries,
            Err(error) if at_root => return Err(error),
            Err(_) => {
                files.push(FileName::new(&directory));
                continue;
            }
        };
        for entry in entries {
            let entry = entry?;
            let below = directory.join(entry.file_name());
            let file_type = entry.file_type()?;
            if source.leaves_out(&below) || (at_root && LEFT_OUT.iter().any(|name| entry.file_name() == *name)) {
                continue;
            }
            if file_type.is_dir() {
                open.push_back(below);
            } else if file_type.is_file() {
                files.push(FileName::new(&below));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}
