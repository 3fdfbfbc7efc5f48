//! Names and identities, each a type of its own, checked where it enters.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::limits::{INSTANCE_ID_BYTES_MAX, NAME_BYTES_MAX, SIGNAL_ID_BYTES_MAX, TRACEPARENT_BYTES_MAX};
use crate::time::Timestamp;

/// Error of a name that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text is empty.
    #[error("{what} is empty: use at least one character")]
    Empty {
        /// The kind of name.
        what: &'static str,
    },
    /// The text has only white space.
    #[error("{what} is blank: use at least one visible character")]
    Blank {
        /// The kind of name.
        what: &'static str,
    },
    /// The text is too long.
    #[error("{what} has {bytes} bytes: at most {bytes_max} are allowed")]
    TooLong {
        /// The kind of name.
        what: &'static str,
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// The text has an invisible character, such as a control character, or a `/` in a node id or
    /// signal name.
    #[error("{what} has the character {found:?} at byte {at}: it must be printable{}", if *found == '/' { " and without '/'" } else { "" })]
    BadCharacter {
        /// The kind of name.
        what: &'static str,
        /// The character.
        found: char,
        /// Its byte offset.
        at: usize,
    },
}

fn check(what: &'static str, text: &str, bytes_max: usize, slash_allowed: bool) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > bytes_max {
        return Err(IdError::TooLong { what, bytes: text.len(), bytes_max });
    }
    let bad = text.char_indices().find(|(_, c)| c.is_control() || (*c == '/' && !slash_allowed));
    match bad {
        Some((at, found)) => Err(IdError::BadCharacter { what, found, at }),
        None => Ok(()),
    }
}

/// Checks as [`check`] does, and refuses invisible characters: two ids that look alike must be
/// equal, and none may turn or break the line of a log.
fn check_visible(what: &'static str, text: &str, bytes_max: usize) -> Result<(), IdError> {
    check(what, text, bytes_max, true)?;
    if text.trim().is_empty() {
        return Err(IdError::Blank { what });
    }
    if text.is_ascii() {
        return Ok(());
    }
    match text.char_indices().find(|(_, c)| is_unseen(*c)) {
        Some((at, found)) => Err(IdError::BadCharacter { what, found, at }),
        None => Ok(()),
    }
}

/// Returns true for characters of the categories Cf (format), Zl and Zp (line and paragraph
/// separators), and for noncharacters. The standard library has no such test; the ranges are those
/// of `DerivedGeneralCategory.txt` of Unicode 16.0.
fn is_unseen(c: char) -> bool {
    matches!(
        u32::from(c),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x180e | 0x200b..=0x200f
            | 0x2028..=0x202e | 0x2060..=0x2064 | 0x2066..=0x206f | 0xfdd0..=0xfdef | 0xfeff | 0xfff9..=0xfffb
            | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0001
            | 0xe0020..=0xe007f
    ) || u32::from(c) & 0xfffe == 0xfffe
}

/// Checks a node id or signal name: 1 to 128 bytes of UTF-8 without control characters and `/`. No
/// stricter, because definitions that have run with a name must build forever.
pub(crate) fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    check(what, text, NAME_BYTES_MAX, false)
}

/// Checks a signal id: 1 to 128 bytes of printable UTF-8.
pub(crate) fn check_signal_id(text: &str) -> Result<(), IdError> {
    check_visible("signal id", text, SIGNAL_ID_BYTES_MAX)
}

/// Checks a traceparent: 1 to 256 bytes of printable UTF-8. The content is not interpreted.
pub(crate) fn check_traceparent(text: &str) -> Result<(), IdError> {
    check_visible("traceparent", text, TRACEPARENT_BYTES_MAX)
}

/// The name of an instance: 1 to 256 bytes of printable UTF-8, chosen by the caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Checks the text, for an instance to be started.
    ///
    /// # Errors
    /// [`IdError`] if the text is empty or blank, longer than 256 bytes, or has an invisible
    /// character: control and format characters (Unicode's Cc and Cf, including zero-width ones and
    /// those that change the text direction), line and paragraph separators (Zl, Zp), and
    /// noncharacters.
    pub fn new(text: &str) -> Result<Self, IdError> {
        check_visible("instance id", text, INSTANCE_ID_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    /// Checks the text of an id that may be stored already, by a version that refused control
    /// characters only.
    pub(crate) fn stored(text: &str) -> Result<Self, IdError> {
        check("instance id", text, INSTANCE_ID_BYTES_MAX, true)?;
        Ok(Self(text.into()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for InstanceId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Id of one execution of an instance; a restarted instance id gets a new one.
///
/// Made of 48 bits of milliseconds and 80 random bits, so that later ids sort later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub(crate) u128);

impl RunId {
    /// Generates an id from the time and the system's random source.
    pub fn generate(now: Timestamp) -> Self {
        let millis = u128::from(now.as_micros() / 1_000) & ((1 << 48) - 1);
        Self(millis << 80 | random_u128() >> 48)
    }

    /// Generates an id whose last two random bytes are the mark of the runtime that starts the run.
    pub(crate) fn generate_by(starter: Starter, now: Timestamp) -> Self {
        let mut bytes = Self::generate(now).to_bytes();
        let [.., a, b] = &mut bytes;
        [*a, *b] = starter.0;
        Self::from_bytes(bytes)
    }

    /// Returns the id as 16 bytes, big-endian.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Creates the id from its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// The mark by which a runtime knows the runs it has started. Two random bytes: one in 65,536 other
/// runtimes has the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starter([u8; 2]);

impl Starter {
    pub(crate) fn generate() -> Self {
        let [.., a, b] = random_u128().to_be_bytes();
        Self([a, b])
    }

    pub(crate) fn may_have_started(self, run: RunId) -> bool {
        let [.., a, b] = run.to_bytes();
        self.0 == [a, b]
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Identifies one write of an instance. Each write carries a stamp, which is stored with it. A
/// batch that is repeated carries the same stamps, and is recognised by them.
///
/// A number of eight bytes, unique among all writes at the same transition by any process: each
/// process counts up from a random start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp(u64);

impl Stamp {
    /// The absence of a stamp, in records written before stamps existed. Never counts as the stamp
    /// of a repeated write.
    pub const NONE: Self = Self(0);

    /// Generates a stamp that no other write has.
    pub fn generate() -> Self {
        static NEXT: LazyLock<AtomicU64> =
            LazyLock::new(|| AtomicU64::new(u64::try_from(random_u128() >> 64).unwrap_or_default()));
        Self(NEXT.fetch_add(1, Ordering::Relaxed).max(1))
    }

    /// Returns the stamp as 8 bytes, big-endian.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// Creates the stamp from its 8 bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// Returns true if both are stamps of the same write.
    pub fn is_of_same_write(self, other: Self) -> bool {
        self == other && self != Self::NONE
    }
}

/// Generates a unique id for a signal sent without one, so that the handle may repeat the message
/// safely.
pub(crate) fn generate_signal_id() -> Arc<str> {
    format!("{:032x}", random_u128()).into()
}

fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    // Without a random source ids could collide and overwrite each other's rows: it is not safe to
    // go on.
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the operating system returned no random bytes: {error}");
    }
    u128::from_be_bytes(bytes)
}

/// Path of a node in its definition: ids from the root, joined by `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodePath(Arc<str>);

impl NodePath {
    /// Creates a path for a lookup. Does not check that such a node exists.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns the path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Hash that identifies a definition: SHA-256 of its name, version and structure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionHash(pub(crate) [u8; 32]);

impl DefinitionHash {
    /// Returns the hash as bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Error of a text that is not a definition hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid definition hash: expected 64 hexadecimal digits")]
pub struct ParseHashError;

impl std::str::FromStr for DefinitionHash {
    type Err = ParseHashError;

    /// Parses 64 hexadecimal digits, the format of `Display`.
    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let digits = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<_>>>().ok_or(ParseHashError)?;
        let bytes = digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit));
        let bytes = bytes.map(u8::try_from).collect::<Result<Vec<_>, _>>().map_err(|_| ParseHashError)?;
        let hash = bytes.try_into().ok().filter(|_| digits.len() == 64).ok_or(ParseHashError)?;
        Ok(Self(hash))
    }
}

impl fmt::Display for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DefinitionHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_checks_length_and_control_characters() {
        assert!(InstanceId::new("order/42 ✓").is_ok());
        assert!(InstanceId::new(&"x".repeat(256)).is_ok());
        assert_eq!(InstanceId::new(""), Err(IdError::Empty { what: "instance id" }));
        assert!(matches!(InstanceId::new(&"x".repeat(257)), Err(IdError::TooLong { bytes: 257, .. })));
        assert!(matches!(InstanceId::new("a\nb"), Err(IdError::BadCharacter { at: 1, .. })));
    }

    /// Method: try characters that are invisible, break a line or turn its direction; as stored ids
    /// they are accepted.
    #[test]
    fn invisible_characters_are_refused_in_new_ids_only() {
        for text in [" ", "\u{3000}\u{a0}"] {
            assert_eq!(InstanceId::new(text), Err(IdError::Blank { what: "instance id" }), "{text:?}");
            assert!(InstanceId::stored(text).is_ok() && check_signal_id(text).is_err(), "{text:?}");
        }
        for unseen in "\u{ad}\u{200b}\u{200d}\u{2028}\u{2029}\u{202e}\u{2060}\u{2066}\u{feff}\u{ffff}\u{e0041}".chars()
        {
            let text = format!("é{unseen}b");
            let refused = InstanceId::new(&text);
            assert_eq!(refused, Err(IdError::BadCharacter { what: "instance id", found: unseen, at: 2 }));
            assert!(check_signal_id(&text).is_err() && check_traceparent(&text).is_err(), "{text:?}");
            assert_eq!(InstanceId::stored(&text).unwrap().as_str(), text);
        }
        for text in ["заказ 7", "注文", "مرحبا", "e\u{301}", "\u{1f980}", " padded "] {
            assert!(InstanceId::new(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn node_id_with_a_slash_is_refused() {
        assert!(check_name("node id", "reserve stock").is_ok());
        assert!(matches!(check_name("node id", "a/b"), Err(IdError::BadCharacter { found: '/', .. })));
    }

    #[test]
    fn definition_hash_parses_its_display() {
        let hash = DefinitionHash(std::array::from_fn(|n| u8::try_from(n * 8).unwrap_or(255)));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for no_hash in ["", "00", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
            assert_eq!(no_hash.parse::<DefinitionHash>(), Err(ParseHashError), "{no_hash}");
        }
    }

    #[test]
    fn later_run_ids_sort_later() {
        let early = RunId::generate(Timestamp::from_micros(1_000_000));
        let late = RunId::generate(Timestamp::from_micros(2_000_000));
        assert!(early < late);
        assert_eq!(RunId::from_bytes(late.to_bytes()), late);
    }
}
