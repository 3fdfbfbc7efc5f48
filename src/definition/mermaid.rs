//! Draws a definition: its manifest as a Mermaid flowchart.
//!
//! All shapes come first, then all arrows: a node named by an arrow within a subgraph would belong
//! to that subgraph. Shapes have generated numbers for ids, so that no name is ever a keyword of
//! Mermaid; names appear only in labels, escaped.
//!
//! A manifest may come damaged from a store. Its nesting is used only where it can be true
//! ([`nesting`]), so that nothing here runs in a circle, recurses too deep, or reads past the end
//! of a table.

use std::collections::HashMap;

use super::{Manifest, ManifestNode, NodeKind};
use crate::limits::NESTING_MAX;

impl Manifest {
    /// Draws the definition as a flowchart in the language of [Mermaid](https://mermaid.js.org),
    /// which code hosts and many editors draw. A box is a task, a rounded box a delay, a hexagon a
    /// wait for a signal. A node with chains within is a frame around them that begins with a shape
    /// that names its kind. See [`Workflow::to_mermaid`](crate::Workflow::to_mermaid).
    ///
    /// Needs no code of the workflow: a manifest kept by a store ([`Manifest::decode`]) is drawn as
    /// well, and a damaged one gives a drawing of its legible nodes. Drawers have limits of their
    /// own; Mermaid draws 500 arrows by default.
    pub fn to_mermaid(&self) -> String {
        let (within, roots) = nesting(&self.nodes);
        let mut drawing = Drawing { nodes: &self.nodes, within, shapes: String::new(), arrows: String::new() };
        let begin = format!("{}, version {}", escaped(&self.name), escaped(&self.version));
        drawing.shape(1, "start", "([", &begin, "])");
        let ends = drawing.chain(&roots, vec![End { shape: "start".into(), label: None }], 1);
        drawing.shape(1, "finish", "([", "end", "])");
        drawing.arrows(&ends, "finish");
        format!("flowchart TD\n{}{}", drawing.shapes, drawing.arrows)
    }
}

/// Returns for each node the nodes directly within it, and the nodes within none; both in program
/// order.
///
/// A node comes after the node it is within, which has chains, and is nested no deeper than a
/// definition may be. Otherwise the node counts as within none.
fn nesting(nodes: &[ManifestNode]) -> (Vec<Vec<usize>>, Vec<usize>) {
    let (mut within, mut roots) = (vec![Vec::new(); nodes.len()], Vec::new());
    let mut depths: Vec<usize> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        // Depths are known only of the nodes before this one.
        let around = node.within.map(|around| around as usize).filter(|around| {
            depths.get(*around).is_some_and(|depth| *depth < NESTING_MAX)
                && nodes.get(*around).is_some_and(|node| has_chains(node.kind))
        });
        depths.push(around.and_then(|around| depths.get(around)).map_or(0, |depth| depth + 1));
        around.and_then(|around| within.get_mut(around)).unwrap_or(&mut roots).push(index);
    }
    (within, roots)
}

fn has_chains(kind: NodeKind) -> bool {
    !matches!(kind, NodeKind::Task | NodeKind::Delay | NodeKind::Signal)
}

/// A shape where the next arrow begins, and the label of that arrow.
struct End<'a> {
    shape: String,
    label: Option<&'a str>,
}

struct Drawing<'a> {
    nodes: &'a [ManifestNode],
    within: Vec<Vec<usize>>,
    shapes: String,
    arrows: String,
}

impl<'a> Drawing<'a> {
    /// Draws nodes one after the other, from the ends of what was drawn before. Returns the ends of
    /// the last.
    fn chain(&mut self, chain: &[usize], before: Vec<End<'a>>, depth: usize) -> Vec<End<'a>> {
        let mut ends = before;
        for &index in chain {
            let Some(node) = self.nodes.get(index) else { continue };
            let shape = format!("n{index}");
            self.arrows(&ends, &shape);
            ends = self.node(index, node, shape, depth);
        }
        ends
    }

    fn node(&mut self, index: usize, node: &'a ManifestNode, shape: String, depth: usize) -> Vec<End<'a>> {
        let name = escaped(node.path.as_str().rsplit('/').next().unwrap_or_default());
        match node.kind {
            NodeKind::Task => self.shape(depth, &shape, "[", &name, "]"),
            NodeKind::Delay => self.shape(depth, &shape, "(", &format!("{name}<br/>delay"), ")"),
            NodeKind::Signal => {
                let signal = node.signal.as_deref().map(escaped).unwrap_or_default();
                let timeout = if node.form.contains("timeout") { " or timeout" } else { "" };
                self.shape(depth, &shape, "{{", &format!("{name}<br/>signal {signal}{timeout}"), "}}");
            }
            NodeKind::Fork | NodeKind::Route | NodeKind::Loop | NodeKind::Map | NodeKind::Child => {
                self.line(depth, &["subgraph s", &index.to_string(), "[\"", &name, "\"]"]);
                let ends = self.nested(index, node, &shape, depth + 1);
                self.line(depth, &["end"]);
                return ends;
            }
        }
        vec![End { shape, label: None }]
    }

    /// Draws the inside of the frame of a node with chains.
    fn nested(&mut self, index: usize, node: &'a ManifestNode, shape: &str, depth: usize) -> Vec<End<'a>> {
        let signal = node.signal.as_deref().map(escaped).unwrap_or_default();
        let turn = if node.form == "draining" { format!("done, and no {signal} left?") } else { "done?".to_owned() };
        let (open, kind, close) = match node.kind {
            NodeKind::Route => ("{", "route", "}"),
            NodeKind::Loop => ("((", "loop", "))"),
            NodeKind::Map if node.form == "collecting" => ("[/", "map, failures kept", "\\]"),
            NodeKind::Map => ("[/", "map", "\\]"),
            NodeKind::Child => ("[[", "child", "]]"),
            _ => ("((", "fork", "))"),
        };
        self.shape(depth, shape, open, kind, close);
        let mut ends = Vec::new();
        for (branch, chain) in self.branches(index, node) {
            let label = branch.or((node.kind == NodeKind::Map).then_some("each item"));
            let begin = vec![End { shape: shape.to_owned(), label }];
            ends.extend(self.chain(&chain, begin, depth));
        }
        if ends.is_empty() {
            ends.push(End { shape: shape.to_owned(), label: None });
        }
        if node.kind == NodeKind::Loop {
            let end = format!("e{index}");
            self.shape(depth, &end, "{", &turn, "}");
            self.arrows(&ends, &end);
            self.arrows(&[End { shape: end.clone(), label: Some("again") }], shape);
            ends = vec![End { shape: end, label: Some("done") }];
        }
        ends
    }

    /// Returns the chains within a node: those it names, even without nodes, then those that its
    /// nodes name.
    fn branches(&self, index: usize, node: &'a ManifestNode) -> Vec<(Option<&'a str>, Vec<usize>)> {
        let mut branches: Vec<_> = node.branches.iter().map(|name| (Some(name.as_str()), Vec::new())).collect();
        let mut places: HashMap<_, _> = branches.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
        for &inner in self.within.get(index).into_iter().flatten() {
            let name = self.nodes.get(inner).and_then(|node| node.branch.as_deref());
            let at = *places.entry(name).or_insert(branches.len());
            if at == branches.len() {
                branches.push((name, Vec::new()));
            }
            if let Some((_, chain)) = branches.get_mut(at) {
                chain.push(inner);
            }
        }
        branches
    }

    fn shape(&mut self, depth: usize, id: &str, open: &str, label: &str, close: &str) {
        self.line(depth, &[id, open, "\"", label, "\"", close]);
    }

    fn line(&mut self, depth: usize, parts: &[&str]) {
        self.shapes.push_str(&"    ".repeat(depth));
        self.shapes.extend(parts.iter().copied().chain(["\n"]));
    }

    fn arrows(&mut self, from: &[End<'_>], to: &str) {
        for End { shape, label } in from {
            let label = label.map(|label| format!("|\"{}\"|", escaped(label))).unwrap_or_default();
            self.arrows.extend(["    ", shape, " -->", &label, " ", to, "\n"]);
        }
    }
}

/// Escapes a name for a label. Everything that Mermaid, its Markdown or HTML could interpret is
/// written as the number of the character: all but letters and digits, single spaces, and `_`, `-`
/// and `.` within a word.
fn escaped(name: &str) -> String {
    if name.is_empty() {
        // Only a damaged manifest has an empty name; a label must not be empty.
        return "?".into();
    }
    let mut label = String::with_capacity(name.len());
    let mut before = None;
    let mut rest = name.chars();
    while let Some(found) = rest.next() {
        let around = [before, rest.clone().next()];
        let within_word = || around.iter().all(|one| one.is_some_and(char::is_alphanumeric));
        let alone = || around.iter().all(|one| one.is_some_and(|one| one != ' '));
        match found {
            ' ' if alone() => label.push(' '),
            // A non-breaking space: plain ones would be dropped.
            ' ' => label.push_str("#160;"),
            '_' | '-' | '.' if within_word() => label.push(found),
            found if found.is_alphanumeric() => label.push(found),
            found => label.extend(["#", &u32::from(found).to_string(), ";"]),
        }
        before = Some(found);
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodePath;

    fn node(path: &str, kind: NodeKind, within: Option<u32>) -> ManifestNode {
        let (signal, form, branch, branches) = (None, String::new(), None, Vec::new());
        ManifestNode { path: NodePath::new(path), kind, signal, form, within, branch, branches }
    }

    fn manifest(nodes: Vec<ManifestNode>) -> Manifest {
        Manifest { name: "w".into(), version: "1".into(), nodes, edges: Vec::new() }
    }

    /// Method: draw manifests that no definition has: a circle, a node within itself, one within a
    /// missing node, within a task, and before the node it is within. Every node is drawn, once.
    #[test]
    fn damaged_manifest_is_drawn_node_by_node() {
        let damaged = manifest(vec![
            node("a", NodeKind::Fork, Some(1)),
            node("b", NodeKind::Fork, Some(0)),
            node("c", NodeKind::Loop, Some(2)),
            node("d", NodeKind::Task, Some(u32::MAX)),
            node("e", NodeKind::Task, Some(3)),
            node("", NodeKind::Signal, Some(7)),
            node("g", NodeKind::Route, None),
        ]);
        let drawing = Manifest { edges: vec![(0, 0), (9, 1), (u32::MAX, 2)], ..damaged }.to_mermaid();
        for index in 0..7 {
            let shapes = drawing.lines().filter(|line| {
                let shape = line.trim_start().strip_prefix(&format!("n{index}"));
                shape.is_some_and(|shape| shape.starts_with(['[', '{', '(']))
            });
            assert_eq!(shapes.count(), 1, "n{index} in:\n{drawing}");
        }
        assert!(drawing.contains("n5{{\"?<br/>signal \"}}"), "{drawing}");
    }

    /// Method: draw many more nodes within each other than a definition may have, each a fork with
    /// a branch. If all of that were used, the recursion would overflow the stack, and the
    /// indentation alone would take gigabytes.
    #[test]
    fn manifest_nested_past_the_limit_is_drawn_flat() {
        let nodes = (0..100_000_u32).map(|n| node("x", NodeKind::Fork, n.checked_sub(1)));
        let drawing = manifest(nodes.collect()).to_mermaid();
        let deepest = drawing.lines().map(|line| line.len() - line.trim_start().len()).max();
        assert_eq!(deepest, Some(4 * (NESTING_MAX + 2)));
    }
}
