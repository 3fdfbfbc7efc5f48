//! Payloads from outside, manifests and texts.
#![no_main]
#![allow(dead_code, reason = "the other targets use the rest")]

#[path = "../../tests/mutations/entry.rs"]
mod entry;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    entry::payload(data);
    entry::unsealed(data);
});
