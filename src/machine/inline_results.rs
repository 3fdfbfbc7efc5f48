//! Small results, which stand in the head until they are too many: that saves a row per step.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::Shape;
use super::interpreter::Interpreter;
use super::{RowKey, RowPlace, Snapshot};
use crate::codec::{Hidden, Home, Place, Value};
use crate::definition::NodeNames;
use crate::limits::{INLINE_BYTES_MAX, INLINE_RESULTS_BYTES_MAX};

/// Approximate bytes that a result takes in the head beside its payload.
const OVERHEAD_BYTES: usize = 8;

/// The latest result of a node that is within no map: node, shape, payload.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct InlineResult(u32, u8, Bytes);

/// The results in the head, the latest last. A row of the same node comes from an earlier
/// iteration.
#[derive(Clone, Debug, Default)]
pub(crate) struct InlineResults {
    list: Vec<InlineResult>,
    bytes: usize,
}

impl InlineResults {
    /// Reads the results of a head's record; `None` if a shape is not known to this version.
    pub(super) fn new(record: Cow<'_, [InlineResult]>) -> Option<Self> {
        let list = record.into_owned();
        let is_known = list.iter().all(|result| Shape::from_u8(result.1).is_some());
        is_known.then(|| Self { bytes: list.iter().map(InlineResult::bytes).sum(), list })
    }

    /// Returns the results as a head's record has them.
    pub(super) fn record(&self) -> Cow<'_, [InlineResult]> {
        Cow::Borrowed(&self.list)
    }

    pub(super) fn put(&mut self, node: u32, shape: Shape, payload: &Bytes) {
        self.drop(node);
        let result = InlineResult(node, shape as u8, payload.clone());
        self.bytes += result.bytes();
        self.list.push(result);
    }

    fn drop(&mut self, node: u32) {
        if let Some(at) = self.list.iter().position(|result| result.0 == node) {
            self.bytes -= self.list.remove(at).bytes();
        }
    }
}

impl InlineResult {
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

impl std::fmt::Debug for InlineResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(node, shape, payload) = self;
        f.debug_tuple("InlineResult").field(node).field(shape).field(&Hidden(payload)).finish()
    }
}

impl Snapshot {
    /// Returns the result of the node at this path, if it stands in the head and not in a row.
    /// `names` are those of the snapshot's definition.
    pub fn inline_result(&self, names: &dyn NodeNames, path: &str) -> Option<Value> {
        let is_it = |result: &&InlineResult| names.path(result.0).is_some_and(|found| found.as_str() == path);
        self.results.list.iter().find(is_it).map(InlineResult::value)
    }

    /// Returns the results that stand in the head, each with its node.
    pub fn inline_results(&self) -> impl Iterator<Item = (u32, Value)> {
        self.results.list.iter().map(|result| (result.0, result.value()))
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
            self.snapshot.results.put(place.node, shape, payload);
            if self.snapshot.results.bytes > INLINE_RESULTS_BYTES_MAX {
                self.spill_results(self.program);
            }
            return result;
        }
        self.snapshot.results.drop(place.node);
        self.put_result_row(&place, shape, payload);
        result.at_home(Home::Result(place))
    }

    /// Moves the results in the head to rows. `names` are those of the definition under which the
    /// results were recorded.
    pub(super) fn spill_results(&mut self, names: &dyn NodeNames) {
        let InlineResults { list, .. } = std::mem::take(&mut self.snapshot.results);
        for result in list {
            if let Some(path) = names.path(result.0) {
                let place = RowPlace { era: self.snapshot.era, path: path.clone(), indices: [].into() };
                self.put_shaped(RowKey::Result(place), result.shape(), &result.2);
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
        let result =
            |shape| vec![InlineResult(0, Shape::Done as u8, Bytes::new()), InlineResult(1, shape, Bytes::new())];
        assert!(InlineResults::new(result(2).into()).is_some());
        assert!(InlineResults::new(result(3).into()).is_none());
    }
}
