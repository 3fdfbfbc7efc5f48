//! Which older definition a newer one takes over.

use std::borrow::Cow;

use crate::id::DefinitionHash;

/// An older definition whose instances may go on with a newer one, given to
/// [`EmptyBuilder::takes_over`](crate::EmptyBuilder::takes_over).
///
/// An instance is taken over when it is next activated, in one write, if everything in it has a place in the newer
/// definition: each of its frames stands at a node that is there under the same path (or the one it was renamed to), of the
/// same kind, within the same nesting of forks, routes, loops and maps. What cannot be placed stays untouched, on its old
/// definition, and is listed by [`Runtime::unplaced`](crate::Runtime::unplaced): never guessed, never failed. Nodes before and
/// behind may be added, removed and changed freely. Payload types must still decode.
///
/// A fork or map that an instance is within cannot be renamed for it, and keeps its branches' ids and their order. A task
/// under a new path has another [idempotency key](crate::TaskContext::idempotency_key) from then on.
///
/// Ended instances stay on their definition. If the older definition is registered too, its instances stay on that.
#[derive(Clone, Debug)]
pub struct TakeOver {
    pub(crate) from: DefinitionHash,
    pub(super) renamed: Vec<(String, String)>,
}

impl TakeOver {
    /// Takes over instances of this definition: `old.hash()` while its code is there, else
    /// [`Runtime::report`](crate::Runtime::report) and the store name it, and it parses from text.
    pub fn of(older: DefinitionHash) -> Self {
        Self { from: older, renamed: Vec::new() }
    }

    /// The node at `old` is at `new` now, and with it what is within it. Paths are ids from the root, joined by `/`. No new node
    /// may stand at `old`, where instances keep what that node gave so far.
    pub fn renamed(mut self, old: impl Into<String>, new: impl Into<String>) -> Self {
        self.renamed.push((old.into(), new.into()));
        self
    }

    /// Where the node at this path is now, by the longest name that was changed.
    pub(crate) fn new_path<'a>(&self, old: &'a str) -> Cow<'a, str> {
        let rest = |name: &str| -> Option<&'a str> {
            old.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let fits = self.renamed.iter().filter_map(|(from, to)| Some((from.len(), to, rest(from)?)));
        match fits.max_by_key(|(bytes, ..)| *bytes) {
            Some((_, to, rest)) => Cow::Owned(format!("{to}{rest}")),
            None => Cow::Borrowed(old),
        }
    }

    /// Where the node at this path was, if it or something around it was renamed.
    pub(crate) fn old_path(&self, new: &str) -> Option<String> {
        let rest = |name: &str| new.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let fits = self.renamed.iter().filter_map(|(from, to)| Some((to.len(), from, rest(to)?)));
        fits.max_by_key(|(bytes, ..)| *bytes).map(|(_, from, rest)| format!("{from}{rest}"))
    }
}

impl From<DefinitionHash> for TakeOver {
    fn from(older: DefinitionHash) -> Self {
        Self::of(older)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_that_was_changed_counts_and_only_whole_ids() {
        let from = DefinitionHash([0; 32]);
        let takeover = TakeOver::of(from).renamed("a", "x").renamed("a/b", "y/z");
        let paths = ["a", "a/c", "a/b", "a/b/c", "ab", "c/a"].map(|path| takeover.new_path(path).into_owned());
        assert_eq!(paths, ["x", "x/c", "y/z", "y/z/c", "ab", "c/a"]);
        assert_eq!(takeover.old_path("y/z/c").as_deref(), Some("a/b/c"));
        assert_eq!(takeover.old_path("ab"), None);
    }
}
