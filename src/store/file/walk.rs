//! Walks a range of keys in order, and skips damaged parts.

use std::ops::ControlFlow;

use bytes::Bytes;
use fjall::{Readable as _, Snapshot};

use super::damage::is_damage;
use super::{Open, fatal};
use crate::store::StoreError;
use crate::store::kv::Hole;

/// The next part of a range.
pub(super) enum Step {
    /// A key and its value.
    Entry(Bytes, Bytes),
    /// A range that cannot be read.
    Hole(Hole),
}

impl Open {
    /// Passes each step to `visit`, until it returns `Break`. The range must have an end: an
    /// iterator without one walks over every deleted key after the last existing one.
    pub(super) fn walk(
        &self,
        snapshot: &Snapshot,
        (from, to): (&[u8], &[u8]),
        mut visit: impl FnMut(Step) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut from = from.to_vec();
        while from.as_slice() < to {
            let (mut last, mut failed) = (None, None);
            for entry in snapshot.range(&self.map, from.as_slice()..to) {
                match entry.into_inner() {
                    Ok((key, value)) => {
                        let key: Bytes = key.into();
                        last = Some(key.clone());
                        if visit(Step::Entry(key, value.into()))?.is_break() {
                            return Ok(());
                        }
                    }
                    Err(error) if is_damage(&error) => {
                        failed = Some(error);
                        break;
                    }
                    Err(error) => return Err(fatal(error)),
                }
            }
            let Some(error) = failed else { return Ok(()) };
            if let Some(last) = last {
                from = from.max([&last[..], &[0]].concat());
            }
            let good = self.holes.pass((&self.map, snapshot), &from, to, &error)?;
            let hole = Hole { from: std::mem::replace(&mut from, good.clone()), to: good };
            if visit(Step::Hole(hole))?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}
