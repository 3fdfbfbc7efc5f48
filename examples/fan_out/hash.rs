//! The hash of a file's bytes.

use std::fs::File;

use everstep::{Dep, TaskContext};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::kind::Look;
use crate::source::Source;

/// A file with the hash of its bytes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hashed {
    /// The look at the file, passed on: nodes after a fork get only the outputs of its branches.
    pub(crate) look: Look,
    /// SHA-256 in hexadecimal digits.
    pub(crate) sha256: String,
}

/// Task: reads the whole file as a stream.
pub(crate) async fn hash(look: Look, source: Dep<Source>, context: TaskContext) -> std::io::Result<Hashed> {
    source.note(&context, &look.name.0)?;
    let mut hasher = Sha256::new();
    let read = File::open(source.at(&look.name)).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    read.map_err(|error| look.name.failed(&error))?;
    Ok(Hashed { look, sha256: format!("{:x}", hasher.finalize()) })
}
