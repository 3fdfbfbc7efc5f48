//! The nesting depth of encoded bytes, checked before they are decoded: a recursive decoder would
//! overflow the stack, and crash the process. rmp-serde counts some kinds of nesting only, and
//! allows more than a small stack has room for.
//!
//! Nothing here is recursive, and nothing is allocated.

use crate::limits::PAYLOAD_DEPTH_MAX;

/// The result of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nesting {
    /// One value, no deeper than allowed.
    Fits,
    /// Nested too deep.
    TooDeep,
    /// Not exactly one whole value.
    Malformed,
}

/// Returns the nesting of MessagePack. Refuses bytes that are not exactly one value: the decoder
/// might see other nesting in them.
pub(super) fn of_message_pack(bytes: &[u8]) -> Nesting {
    // Most values are small, and many hold no others: these need no room for open containers.
    if let Some((0, behind)) = item(bytes) {
        return if behind.is_empty() { Nesting::Fits } else { Nesting::Malformed };
    }
    // The number of values still to come, for each open array and map.
    let mut open = [0_u64; PAYLOAD_DEPTH_MAX];
    let mut depth = 0;
    let mut rest = bytes;
    loop {
        let Some((within, behind)) = item(rest) else { return Nesting::Malformed };
        rest = behind;
        if within > 0 {
            let Some(place) = open.get_mut(depth) else { return Nesting::TooDeep };
            *place = within;
            depth += 1;
            continue;
        }
        // A value is complete, and with it each container of which it was the last value.
        while let Some(place) = depth.checked_sub(1).and_then(|at| open.get_mut(at)) {
            *place -= 1;
            if *place > 0 {
                break;
            }
            depth -= 1;
        }
        if depth == 0 {
            return if rest.is_empty() { Nesting::Fits } else { Nesting::Malformed };
        }
    }
}

/// Takes a marker and its own bytes off the front; returns how many values it contains, and the
/// bytes that follow.
fn item(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&marker, rest) = bytes.split_first()?;
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let length = |width: usize| Some((number(rest.get(..width)?), width));
    // After the marker: a length and as many bytes as it counts, or a fixed number of bytes.
    let skipped = |counted: Option<(u64, usize)>| {
        let (length, width) = counted?;
        usize::try_from(length).ok()?.checked_add(width)
    };
    let low = u64::from(marker & 0x0f);
    let (within, skip) = match marker {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, 0),
        0x80..=0x8f => (2 * low, 0),
        0x90..=0x9f => (low, 0),
        0xa0..=0xbf => (0, usize::from(marker & 0x1f)),
        0xc4 | 0xd9 => (0, skipped(length(1))?),
        0xc5 | 0xda => (0, skipped(length(2))?),
        0xc6 | 0xdb => (0, skipped(length(4))?),
        // An extension has one more byte, for its type.
        0xc7 => (0, skipped(length(1))?.checked_add(1)?),
        0xc8 => (0, skipped(length(2))?.checked_add(1)?),
        0xc9 => (0, skipped(length(4))?.checked_add(1)?),
        0xcc | 0xd0 => (0, 1),
        0xcd | 0xd1 | 0xd4 => (0, 2),
        0xd5 => (0, 3),
        0xca | 0xce | 0xd2 => (0, 4),
        0xd6 => (0, 5),
        0xcb | 0xcf | 0xd3 => (0, 8),
        0xd7 => (0, 9),
        0xd8 => (0, 17),
        0xdc => (length(2)?.0, 2),
        0xdd => (length(4)?.0, 4),
        0xde => (2 * length(2)?.0, 2),
        0xdf => (2 * length(4)?.0, 4),
        0xc1 => return None,
    };
    Some((within, rest.get(skip..)?))
}

/// Returns the nesting of JSON that an encoder wrote. Does not check that the JSON is well formed.
pub(super) fn of_json(bytes: &[u8]) -> Nesting {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > PAYLOAD_DEPTH_MAX {
            return Nesting::TooDeep;
        }
    }
    Nesting::Fits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one of every marker, each with the bytes that belong to it.
    fn every_marker() -> Vec<Vec<u8>> {
        let filled = |marker: &[u8], bytes: usize| [marker, &vec![0x41; bytes]].concat();
        let mut values = vec![vec![0x00], vec![0x7f], vec![0xc0], vec![0xc2], vec![0xc3], vec![0xe0], vec![0xff]];
        values.extend([filled(&[0xa0], 0), filled(&[0xbf], 31), filled(&[0xc4, 3], 3), filled(&[0xd9, 200], 200)]);
        values.extend([filled(&[0xc5, 1, 0], 256), filled(&[0xda, 1, 1], 257)]);
        values.extend([filled(&[0xc6, 0, 1, 0, 0], 65_536), filled(&[0xdb, 0, 1, 0, 1], 65_537)]);
        values.extend([filled(&[0xc7, 2], 3), filled(&[0xc8, 0, 2], 3), filled(&[0xc9, 0, 0, 0, 2], 3)]);
        values.extend([0xd4, 0xd5, 0xd6, 0xd7, 0xd8].map(|marker| filled(&[marker], 1 + (1 << (marker - 0xd4)))));
        values.extend([0xcc, 0xcd, 0xce, 0xcf].map(|marker| filled(&[marker], 1 << (marker - 0xcc))));
        values.extend([0xd0, 0xd1, 0xd2, 0xd3].map(|marker| filled(&[marker], 1 << (marker - 0xd0))));
        values.extend([filled(&[0xca], 4), filled(&[0xcb], 8)]);
        values.extend([vec![0x80], vec![0x90], vec![0x82, 1, 2, 3, 4], vec![0x93, 1, 2, 3]]);
        values.extend([vec![0xdc, 0, 2, 1, 2], vec![0xdd, 0, 0, 0, 2, 1, 2]]);
        values.extend([vec![0xde, 0, 1, 1, 2], vec![0xdf, 0, 0, 0, 1, 1, 2]]);
        values
    }

    /// Method: each value whole, and cut at every length; judged by the decoder that payloads use.
    #[test]
    fn nesting_check_accepts_what_the_decoder_accepts() {
        for value in every_marker() {
            assert_eq!(of_message_pack(&value), Nesting::Fits, "{:x?}", value.get(..5));
            assert!(rmp_serde::from_slice::<serde::de::IgnoredAny>(&value).is_ok(), "{:x?}", value.get(..5));
            let cuts = (0..value.len()).filter(|cut| *cut < 20 || *cut == value.len() - 1);
            for cut in cuts {
                assert_eq!(of_message_pack(&value[..cut]), Nesting::Malformed, "{:x?} cut to {cut}", value.get(..5));
            }
            assert_eq!(of_message_pack(&[&value[..], b"\xc0"].concat()), Nesting::Malformed);
        }
        assert_eq!(of_message_pack(b"\xc1"), Nesting::Malformed);
    }

    /// Method: as deep as is allowed and one level deeper, with every kind of container.
    #[test]
    fn the_limit_is_where_it_is_said_to_be() {
        let containers: [&[u8]; 6] =
            [b"\x91", b"\x81\xc0", b"\xdc\0\x01", b"\xdd\0\0\0\x01", b"\xde\0\x01\xc0", b"\xdf\0\0\0\x01\xc0"];
        for container in containers {
            let nested = |levels: usize| [&container.repeat(levels)[..], b"\xc0"].concat();
            assert_eq!(of_message_pack(&nested(PAYLOAD_DEPTH_MAX)), Nesting::Fits, "{container:x?}");
            assert_eq!(of_message_pack(&nested(PAYLOAD_DEPTH_MAX + 1)), Nesting::TooDeep, "{container:x?}");
            assert_eq!(of_message_pack(&nested(1_000_000)), Nesting::TooDeep, "{container:x?}");
        }
        let beside = [&b"\xdc\x03\xe8"[..], &b"\x91\xc0".repeat(1_000)].concat();
        assert_eq!(of_message_pack(&beside), Nesting::Fits, "a thousand beside each other are not deep");
    }

    #[test]
    fn brackets_in_the_texts_of_json_do_not_nest() {
        let nested = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
        assert_eq!(of_json(nested(PAYLOAD_DEPTH_MAX).as_bytes()), Nesting::Fits);
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(&nested(PAYLOAD_DEPTH_MAX)).is_ok());
        assert_eq!(of_json(nested(PAYLOAD_DEPTH_MAX + 1).as_bytes()), Nesting::TooDeep);
        assert!(serde_json::from_str::<serde_json::Value>(&nested(PAYLOAD_DEPTH_MAX + 1)).is_err());
        let text = serde_json::to_vec(&format!("\\\"{}\\", "[{".repeat(1_000))).unwrap();
        assert_eq!(of_json(&text), Nesting::Fits);
        assert_eq!(of_json(&b"[{}]".repeat(1_000)), Nesting::Fits);
    }
}
