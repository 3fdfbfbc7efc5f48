//! Records as they might be stored: as they are, and as a body with a correct checksum. The first
//! byte selects the record, and one of the two.
#![no_main]
#![allow(dead_code, reason = "the other targets use the rest")]

#[path = "../../tests/mutations/entry.rs"]
mod entry;

use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

static GOLDEN: LazyLock<entry::Golden> =
    LazyLock::new(|| entry::Golden::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")));

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let record = &GOLDEN.records[usize::from(first >> 1) % GOLDEN.records.len()];
    if first & 1 == 0 {
        GOLDEN.stored(record, &Bytes::copy_from_slice(bytes));
    } else {
        GOLDEN.sealed(record, bytes);
    }
});
