//! Small results, which stand in the head until they are too many: that saves a row per step.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::Shape;
use super::interpreter::Interpreter;
use super::{RowKey, RowPlace, Snapshot};
use crate::codec::{Hidden, Home, Place, Value};
use crate::definition::Names;
use crate::limits::{INLINE_BYTES_MAX, KEPT_RESULTS_BYTES_MAX};

/// Approximate bytes that a result takes in the head beside its payload.
const OVERHEAD_BYTES: usize = 8;

/// The latest result of a node that is within no map: node, shape, payload.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept(u32, u8, Bytes);

/// The results in the head, the latest last. A row of the same node comes from an earlier
/// iteration.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeptResults {
    kept: Vec<Kept>,
    bytes: usize,
}

impl KeptResults {
    /// Reads the results of a head's record; `None` if a shape is not known to this version.
    pub(super) fn new(record: Cow<'_, [Kept]>) -> Option<Self> {
        let kept = record.into_owned();
        let is_known = kept.iter().all(|kept| Shape::from_u8(kept.1).is_some());
        is_known.then(|| Self { bytes: kept.iter().map(Kept::bytes).sum(), kept })
    }

    /// Returns the results as a head's record has them.
    pub(super) fn record(&self) -> Cow<'_, [Kept]> {
        Cow::Borrowed(&self.kept)
    }

    pub(super) fn keep(&mut self, node: u32, shape: Shape, payload: &Bytes) {
        self.drop(node);
        let kept = Kept(node, shape as u8, payload.clone());
        self.bytes += kept.bytes();
        self.kept.push(kept);
    }

    fn drop(&mut self, node: u32) {
        if let Some(at) = self.kept.iter().position(|kept| kept.0 == node) {
            self.bytes -= self.kept.remove(at).bytes();
        }
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.2.len() + OVERHEAD_BYTES
    }

    /// Returns the shape, which was checked when the record was read.
    fn shape(&self) -> Shape {
        Shape::from_u8(self.1).unwrap_or_default()
    }

    fn value(&self) -> Value {
        self.shape().value(self.2.clone())
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(node, shape, payload) = self;
        f.debug_tuple("Kept").field(node).field(shape).field(&Hidden(payload)).finish()
    }
}

impl Snapshot {
    /// Returns the result of the node at this path, if it stands in the head and not in a row.
    /// `names` are those of the snapshot's definition.
    pub fn kept_result(&self, names: &dyn Names, path: &str) -> Option<Value> {
        let is_it = |kept: &&Kept| names.path(kept.0).is_some_and(|found| found.as_str() == path);
        self.results.kept.iter().find(is_it).map(Kept::value)
    }

    /// Returns the results that stand in the head, each with its node.
    pub fn kept_results(&self) -> impl Iterator<Item = (u32, Value)> {
        self.results.kept.iter().map(|kept| (kept.0, kept.value()))
    }
}

impl Interpreter<'_> {
    /// Records the result at a place: one payload, and the loop token before it, if any. Returns
    /// the value with its home.
    pub(super) fn put_result(&mut self, place: Place, result: Value) -> Value {
        let (shape, Some(payload)) = (Shape::of(&result), result.payload()) else { return result };
        if !place.indices.is_empty() {
            self.put_result_row(&place, shape, payload);
            return result.at_home(Home::Result(place));
        }
        if payload.len() <= INLINE_BYTES_MAX {
            self.snapshot.results.keep(place.node, shape, payload);
            if self.snapshot.results.bytes > KEPT_RESULTS_BYTES_MAX {
                self.spill_results(self.program);
            }
            return result;
        }
        self.snapshot.results.drop(place.node);
        self.put_result_row(&place, shape, payload);
        result.at_home(Home::Result(place))
    }

    /// Moves the results in the head to rows. `names` are those of the definition under which the
    /// results were kept.
    pub(super) fn spill_results(&mut self, names: &dyn Names) {
        let KeptResults { kept, .. } = std::mem::take(&mut self.snapshot.results);
        for kept in kept {
            if let Some(path) = names.path(kept.0) {
                let place = RowPlace { era: self.snapshot.era, path: path.clone(), indices: [].into() };
                self.put_shaped(RowKey::Result(place), kept.shape(), &kept.2);
            }
        }
    }

    fn put_result_row(&mut self, place: &Place, shape: Shape, payload: &Bytes) {
        if let Some(place) = self.row_place(place.node, place) {
            self.put_shaped(RowKey::Result(place), shape, payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_of_a_later_version_is_not_read_as_another() {
        let kept = |shape| vec![Kept(0, Shape::Done as u8, Bytes::new()), Kept(1, shape, Bytes::new())];
        assert!(KeptResults::new(kept(2).into()).is_some());
        assert!(KeptResults::new(kept(3).into()).is_none());
    }
}
