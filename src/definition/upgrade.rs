//! Declares which older definitions a newer one upgrades.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, ManifestNode, NodeKind};
use crate::id::DefinitionHash;

/// An older definition whose instances are upgraded to a newer one, given to
/// [`WorkflowBuilder::upgrades_from`](crate::WorkflowBuilder::upgrades_from).
///
/// An instance is upgraded when it is next activated, in one write, if each of its frames has a
/// place in the newer definition: a node under the same path (or the path it was renamed to), of
/// the same kind, within the same nesting of forks, routes, loops and maps. An instance that cannot
/// be placed stays untouched, on its old definition, and is listed by
/// [`Runtime::left_alone`](crate::Runtime::left_alone): its place is never guessed, and it never
/// fails for that. Nodes before and after its own may be added, removed and changed freely. Payload
/// types must still decode.
///
/// A fork or map that an instance is within cannot be renamed for it, and keeps its branches' ids
/// and their order. A task under a new path has another [idempotency
/// key](crate::TaskContext::idempotency_key) from then on.
///
/// Recorded results are read by the names of the newer definition, after any number of upgrades. No
/// stored value is moved: an upgrade costs a write of the current frames, however large their
/// values are.
///
/// Ended instances stay on their definition. If the older definition is registered too, its
/// instances stay on it.
#[derive(Clone, Debug)]
pub struct UpgradeFrom {
    pub(crate) from: DefinitionHash,
    pub(super) renamed: Vec<(String, String)>,
}

impl UpgradeFrom {
    /// Upgrades instances of this definition. Use `old.hash()` while its code exists; otherwise
    /// take the hash from [`Runtime::report`](crate::Runtime::report) or the store, and parse it
    /// from text.
    pub fn of(older: DefinitionHash) -> Self {
        Self { from: older, renamed: Vec::new() }
    }

    /// Declares that the node at `old` is now at `new`, together with the nodes within it. Paths
    /// are ids from the root, joined by `/`. A new node may use the path `old`: recorded results
    /// stay with the node that recorded them. If the older definition has a node at `new` already,
    /// rename that one as well: an instance that is at it cannot be placed otherwise.
    pub fn renamed(mut self, old: impl Into<String>, new: impl Into<String>) -> Self {
        self.renamed.push((old.into(), new.into()));
        self
    }

    /// Returns the new path of the node at this path; of several renames that fit, the longest
    /// counts.
    pub(crate) fn new_path<'a>(&self, old: &'a str) -> Cow<'a, str> {
        new_path(&self.renamed, old)
    }

    /// Returns the old path of the node at this path; none if neither it nor a node around it was
    /// renamed.
    pub(crate) fn old_path(&self, new: &str) -> Option<String> {
        let fits = self.renamed.iter().filter_map(|(from, to)| Some((to.len(), from, rest(new, to)?)));
        fits.max_by_key(|(bytes, ..)| *bytes).map(|(_, from, rest)| format!("{from}{rest}"))
    }
}

/// The changes of node names by one upgrade, by which the result of a task is found under its
/// current name, and never that of another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Renames {
    /// Old and new paths, of nodes that the older definition had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    renamed: Vec<(String, String)>,
    /// Old paths of nodes in whose place the newer definition has another kind of node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    other: Vec<String>,
}

impl Renames {
    pub(crate) fn new(upgrade_from: &UpgradeFrom, old: &Manifest, new: &Manifest) -> Self {
        let kinds: HashMap<&str, NodeKind> = new.nodes.iter().map(|node| (node.path.as_str(), node.kind)).collect();
        let is_other = |node: &&ManifestNode| {
            kinds.get(&*upgrade_from.new_path(node.path.as_str())).is_some_and(|kind| *kind != node.kind)
        };
        let was_there = |name: &str| old.nodes.iter().any(|node| rest(node.path.as_str(), name).is_some());
        let renamed = upgrade_from.renamed.iter().filter(|(old, _)| was_there(old)).cloned().collect();
        let other = old.nodes.iter().filter(is_other).map(|node| node.path.to_string()).collect();
        Self { renamed, other }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.renamed.is_empty() && self.other.is_empty()
    }

    /// Returns the path that the node at `new` had before; none if another node had that path, or
    /// its node is elsewhere now.
    pub(crate) fn before(&self, new: &str) -> Option<String> {
        let old = self.renamed.iter().filter_map(|(old, now)| {
            let old = format!("{old}{}", rest(new, now)?);
            (new_path(&self.renamed, &old) == new).then_some((now.len(), old))
        });
        // Of the renames that fit, the longest counts, and of several of that length the first.
        let renamed = old.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let stayed = || (new_path(&self.renamed, new) == new).then(|| new.to_owned());
        let old = renamed.map(|(_, old)| old).or_else(stayed)?;
        (!self.other.contains(&old)).then_some(old)
    }
}

/// Returns the rest of a path after a leading name; empty if the path is the name, and none if it
/// does not begin with the name.
fn rest<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    path.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn new_path<'a>(renamed: &[(String, String)], old: &'a str) -> Cow<'a, str> {
    let fits = renamed.iter().filter_map(|(from, to)| Some((from.len(), to, rest(old, from)?)));
    match fits.max_by_key(|(bytes, ..)| *bytes) {
        Some((_, to, rest)) => Cow::Owned(format!("{to}{rest}")),
        None => Cow::Borrowed(old),
    }
}

impl From<DefinitionHash> for UpgradeFrom {
    fn from(older: DefinitionHash) -> Self {
        Self::of(older)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodePath;

    #[test]
    fn the_longest_name_that_was_changed_counts_and_only_whole_ids() {
        let from = DefinitionHash([0; 32]);
        let upgrade_from = UpgradeFrom::of(from).renamed("a", "x").renamed("a/b", "y/z");
        let paths = ["a", "a/c", "a/b", "a/b/c", "ab", "c/a"].map(|path| upgrade_from.new_path(path).into_owned());
        assert_eq!(paths, ["x", "x/c", "y/z", "y/z/c", "ab", "c/a"]);
        assert_eq!(upgrade_from.old_path("y/z/c").as_deref(), Some("a/b/c"));
        assert_eq!(upgrade_from.old_path("ab"), None);
    }

    fn manifest(nodes: &[(&str, NodeKind)]) -> Manifest {
        let node = |&(path, kind): &(&str, NodeKind)| ManifestNode {
            path: NodePath::new(path),
            kind,
            signal: None,
            form: String::new(),
            within: None,
            branch: None,
            branches: Vec::new(),
        };
        Manifest { nodes: nodes.iter().map(node).collect(), ..Manifest::default() }
    }

    /// Method: rename nodes in every way, together; follow each new name back to the old one.
    #[test]
    fn names_are_followed_back_through_an_upgrade() {
        use NodeKind::{Child, Signal, Task};
        let old = [("a", Task), ("b", Task), ("c", Task), ("k", Child), ("k/t", Task), ("k/u", Task), ("w", Signal)];
        let new = [("a", Task), ("b", Task), ("d", Task), ("c", Task), ("l", Child), ("l/t", Task), ("k/u", Task)];
        let new = [&new[..], &[("l/v", Task), ("m", Task), ("w", Task)]].concat();
        let from = DefinitionHash([0; 32]);
        let swapped = UpgradeFrom::of(from).renamed("a", "b").renamed("b", "a").renamed("c", "d");
        let upgrade_from = swapped.renamed("k", "l").renamed("k/u", "m").renamed("gone", "c");
        let renames = Renames::new(&upgrade_from, &manifest(&old), &manifest(&new));
        let before = |path: &str| renames.before(path);
        assert_eq!(before("a").as_deref(), Some("b"));
        assert_eq!(before("b").as_deref(), Some("a"));
        assert_eq!(before("d").as_deref(), Some("c"));
        assert_eq!(before("c"), None, "a new task at an old name; the name that it is given was no node's");
        assert_eq!(before("l/t").as_deref(), Some("k/t"));
        assert_eq!(before("m").as_deref(), Some("k/u"), "the longest name counts");
        assert_eq!(before("k/u"), None);
        assert_eq!(before("w"), None, "a wait is no task");
        assert_eq!(before("new").as_deref(), Some("new"), "it may have been there before, and again now");
        let same = Renames::new(&UpgradeFrom::of(from), &manifest(&old), &manifest(&old));
        assert!(same.is_empty());
        assert_eq!(same.before("a").as_deref(), Some("a"));
    }
}
