//! The files to ingest: all files below a directory.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io::ErrorKind;
use std::path::{MAIN_SEPARATOR_STR, Path, PathBuf};

use everstep::InstanceId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::stop::Stop;

/// Directories that are skipped directly in the root: the repository's own and build output.
const LEFT_OUT: [&str; 2] = [".git", "target"];

/// One file, as the workflow gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FileRef {
    /// The path below the root, with forward slashes. Bytes that are not UTF-8 are replaced.
    pub(crate) path: String,
    /// The real path, if [`FileRef::path`] is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    real: Option<OsString>,
}

impl FileRef {
    fn new(path: PathBuf) -> Self {
        let shown = path.to_string_lossy().replace(MAIN_SEPARATOR_STR, "/");
        let real = path.to_str().is_none().then(|| path.into_os_string());
        Self { path: shown, real }
    }

    /// Returns the path below the root, as the operating system knows it.
    pub(crate) fn real(&self) -> &Path {
        self.real.as_deref().map_or(Path::new(&self.path), Path::new)
    }

    /// Returns the id of the instance for this file: its path, or the path's hash if the path
    /// cannot be an id.
    pub(crate) fn instance(&self) -> String {
        match InstanceId::new(&self.path) {
            Ok(id) => id.as_str().to_owned(),
            Err(_) => format!("sha256:{:x}", Sha256::digest(&self.path)),
        }
    }
}

/// All entries below a directory.
#[derive(Default)]
pub(crate) struct Listing {
    /// Files, in order. A broken link counts as a file: reading it reports the error.
    pub(crate) files: Vec<FileRef>,
    /// Directories that could not be listed, with the reason.
    pub(crate) unreadable: Vec<(String, String)>,
    /// Entries that are not files: links to directories, devices, pipes, sockets.
    pub(crate) left_out: usize,
}

/// Returns the directory to ingest, without links and dots.
pub(crate) fn root(path: &Path) -> Result<PathBuf, Stop> {
    let root = path.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Stop::NoSuchPath(path.to_owned()),
        _ => Stop::io("open", path, error),
    })?;
    if root.is_dir() { Ok(root) } else { Err(Stop::NotADirectory(path.to_owned())) }
}

/// Lists the files below `root`, except `left_out`, whose paths are canonical as the root's is.
/// Links to directories are not followed, since they may form a circle.
pub(crate) fn list(root: &Path, left_out: &[PathBuf]) -> Result<Listing, Stop> {
    let mut listing = Listing::default();
    // Relative directories still to be listed: an explicit stack, so that deep trees need no deep
    // call stack.
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        if let Err(error) = list_one(root, &directory, left_out, &mut open, &mut listing) {
            if directory.as_os_str().is_empty() {
                return Err(Stop::io("list", root, error));
            }
            let path = FileRef::new(directory).path;
            listing.unreadable.push((path, format!("cannot be listed: {error}")));
        }
    }
    listing.files.sort_unstable();
    tell_apart(&mut listing.files);
    Ok(listing)
}

fn list_one(
    root: &Path,
    directory: &Path,
    left_out: &[PathBuf],
    open: &mut Vec<PathBuf>,
    listing: &mut Listing,
) -> std::io::Result<()> {
    let at_root = directory.as_os_str().is_empty();
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let below = directory.join(entry.file_name());
        let at = root.join(&below);
        let file_type = entry.file_type()?;
        if left_out.contains(&at) {
            continue;
        }
        if file_type.is_dir() {
            if !(at_root && LEFT_OUT.iter().any(|name| below.as_os_str() == *name)) {
                open.push(below);
            }
        } else if is_file(&at, file_type) {
            listing.files.push(FileRef::new(below));
        } else {
            listing.left_out += 1;
        }
    }
    Ok(())
}

fn is_file(at: &Path, file_type: FileType) -> bool {
    if file_type.is_symlink() {
        return fs::metadata(at).map_or(true, |target| target.is_file());
    }
    file_type.is_file()
}

/// Makes names unique. Names that are not UTF-8 may become equal by replacement: all but the first
/// get a part of their hash.
fn tell_apart(files: &mut [FileRef]) {
    let mut seen = HashSet::new();
    for file in files.iter_mut().filter(|file| file.path.contains(char::REPLACEMENT_CHARACTER)) {
        if !seen.insert(file.path.clone()) {
            let real = file.real.get_or_insert_with(|| OsString::from(&file.path));
            let hash = format!("{:x}", Sha256::digest(real.as_encoded_bytes()));
            file.path = format!("{} ({hash:.16})", file.path);
        }
    }
}
