//! Damaged blocks of tables. They cost the keys in them, and no keys after them.
//!
//! A block is read, and its checksum checked, when a key in it is asked for. The value of a key in
//! a damaged block is returned as empty, which no record is: so the instance that owns the record
//! is found damaged, and no other. A scan continues after the block, at the first key that can be
//! read again. That key is found by bisection, since nothing says where a block ends. Keys of other
//! tables within such a hole are hidden from scans too; hidden index entries are rebuilt from the
//! heads (`kv::hidden`).

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use fjall::{Keyspace, Readable as _, Snapshot};

use super::{Open, fatal};
use crate::store::kv::Hole;
use crate::store::{StoreError, tables};

/// Most holes that are remembered. A further hole is searched for again by each scan that meets it.
const HOLES_MAX: usize = 1_024;
/// Bytes of a key that bisection tells apart, after the common prefix of its two ends.
const PRECISION_BYTES: usize = 40;

/// The holes that scans have met.
#[derive(Debug, Default)]
pub(super) struct Holes(Mutex<Vec<Hole>>);

/// Returns true if an error says that bytes are not as they were written; false for a disk that
/// fails.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error::{Decompress, InvalidTag, InvalidTrailer, Storage};
    match error {
        Storage(error) => tables::is_damage(error),
        Decompress(_) | InvalidTag(_) | InvalidTrailer => true,
        _ => false,
    }
}

impl Holes {
    pub(super) fn all(&self) -> Vec<Hole> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the key at which a scan continues that could not read on from `from`.
    pub(super) fn pass(
        &self,
        (map, snapshot): (&Keyspace, &Snapshot),
        from: &[u8],
        to: &[u8],
        error: &fjall::Error,
    ) -> Result<Vec<u8>, StoreError> {
        let known = self.all().into_iter().find(|hole| hole.holds(from));
        if let Some(hole) = known {
            return Ok(hole.to);
        }
        let (mut bad, mut good) = (from.to_vec(), to.to_vec());
        while let Some(middle) = middle(&bad, &good) {
            match is_readable(map, snapshot, &middle, to) {
                Ok(true) => good = middle,
                Ok(false) => bad = middle,
                Err(error) => return Err(error),
            }
        }
        tracing::error!(
            %error, from = %from.escape_ascii(), to = %good.escape_ascii(),
            "a part of a table is damaged and skipped: back the store up, and check its disk"
        );
        let mut holes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holes.len() < HOLES_MAX {
            holes.push(Hole { from: from.to_vec(), to: good.clone() });
        }
        Ok(good)
    }
}

impl Open {
    /// Returns the value of a key; empty if it cannot be read.
    pub(super) fn get(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match snapshot.get(&self.map, key) {
            Ok(value) => Ok(value.map(Bytes::from)),
            Err(error) if is_damage(&error) => self.get_without_filter(snapshot, key, &error),
            Err(error) => Err(fatal(error)),
        }
    }

    /// Returns the value of a key if it can be read. In a damaged part of a table an absent key
    /// cannot be told from an unreadable value; both are returned as absent.
    pub(super) fn certain(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get(snapshot, key)?.filter(|value| !value.is_empty()))
    }

    /// Reads a value that a look-up found damaged without the table's filter, since the filter may
    /// be the only damaged part.
    fn get_without_filter(
        &self,
        snapshot: &Snapshot,
        key: &[u8],
        error: &fjall::Error,
    ) -> Result<Option<Bytes>, StoreError> {
        match snapshot.range(&self.map, key..=key).next().map(fjall::Guard::into_inner) {
            None => Ok(None),
            Some(Ok((_, value))) => Ok(Some(value.into())),
            Some(Err(again)) if is_damage(&again) => {
                tracing::error!(%error, key = %key.escape_ascii(), "a record is in a damaged part of a table");
                Ok(Some(Bytes::new()))
            }
            Some(Err(again)) => Err(fatal(again)),
        }
    }
}

/// Returns true if the first key from `from` on can be read, or there is none.
fn is_readable(map: &Keyspace, snapshot: &Snapshot, from: &[u8], to: &[u8]) -> Result<bool, StoreError> {
    match snapshot.range(map, from..to).next().map(fjall::Guard::into_inner) {
        None | Some(Ok(_)) => Ok(true),
        Some(Err(error)) if is_damage(&error) => Ok(false),
        Some(Err(error)) => Err(fatal(error)),
    }
}

/// Returns a key halfway between two; none if they are too near for bisection.
fn middle(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let common = low.iter().zip(high).take_while(|(low, high)| low == high).count();
    let digits = common + PRECISION_BYTES;
    let digit = |key: &[u8], at: usize| u16::from(key.get(at).copied().unwrap_or(0));
    let mut sum = vec![0_u16; digits];
    let mut carry = 0;
    for (at, digit_sum) in sum.iter_mut().enumerate().rev() {
        let whole = digit(low, at) + digit(high, at) + carry;
        (*digit_sum, carry) = (whole & 0xFF, whole >> 8);
    }
    let mut half = Vec::with_capacity(digits);
    for digit in sum {
        let whole = (carry << 8) | digit;
        half.push(u8::try_from(whole >> 1).unwrap_or(u8::MAX));
        carry = whole & 1;
    }
    while half.last() == Some(&0) {
        half.pop();
    }
    (half.as_slice() > low && half.as_slice() < high).then_some(half)
}

#[cfg(test)]
mod tests {
    use super::middle;

    /// Method: bisect towards a key that is hidden between two others, as a hole's end is.
    #[test]
    fn halving_finds_the_end_of_a_hole() {
        for end in [&b"t\0\0\0\0\0\0\0\x07order-123"[..], b"t", b"s\xff\xff", b"sab"] {
            let (mut bad, mut good) = (b"s".to_vec(), b"u".to_vec());
            let mut steps = 0;
            while let Some(middle) = middle(&bad, &good) {
                let side = if middle.as_slice() >= end { &mut good } else { &mut bad };
                *side = middle;
                steps += 1;
                assert!(steps < 1_000, "it comes to an end");
            }
            assert_eq!(good, end);
        }
        assert_eq!(middle(b"a", b"a"), None);
    }
}
