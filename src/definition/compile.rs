//! Compiles nodes to a checked, flat program.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::draft::{About, ChainDraft, NodeDraft, NodeDraftKind};
use super::handler::ErasedTask;
use super::hash::{ChildEntry, hash};
use super::map::limit;
use super::program::{ForkOp, LoopOp, MapOp, Node, Op, Program, RouteOp, Target, TaskOp, WaitOp};
use super::workflow::{Definition, SignalType};
use super::{BuildError, BuildErrors, Checkpoint, Manifest, ManifestNode, NodeKind};
use crate::id::{NodePath, check_name};
use crate::limits::{NESTING_MAX, NODES_MAX};

pub(super) fn compile(about: About, drafts: Vec<NodeDraft>) -> Result<Definition, BuildErrors> {
    let mut compiler = Compiler::default();
    compiler.check_name("workflow name", &about.info.name);
    if drafts.is_empty() {
        compiler.errors.push(BuildError::Empty { workflow: about.info.name.clone() });
    }
    compiler.chain(&Scope::default(), &drafts);
    compiler.ops.push(Op::End);
    if compiler.nodes.len() > NODES_MAX {
        compiler.errors.push(BuildError::TooManyNodes { nodes: compiler.nodes.len() });
    }
    compiler.finish(about, drafts)
}

#[derive(Default)]
struct Compiler {
    ops: Vec<Op>,
    nodes: Vec<Node>,
    described: Vec<ManifestNode>,
    edges: Vec<(u32, u32)>,
    tasks: Vec<ErasedTask>,
    signals: HashMap<Arc<str>, SignalType>,
    children: Vec<ChildEntry>,
    errors: Vec<BuildError>,
}

/// Position of a chain in the workflow.
#[derive(Default)]
struct Scope {
    /// The beginning of its nodes' paths, up to a slash.
    prefix: String,
    depth: usize,
    /// The node around the chain, and the branch or arm of that node.
    within: Option<u32>,
    branch: Option<String>,
}

impl Scope {
    fn path(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    /// Returns the scope of the chain within one of its nodes.
    fn inner(&self, node: u32, id: &str) -> Self {
        Self { prefix: format!("{}{id}/", self.prefix), depth: self.depth + 1, within: Some(node), branch: None }
    }

    fn branch(&self, name: &str) -> Self {
        Self { prefix: format!("{}{name}/", self.prefix), branch: Some(name.to_owned()), ..*self }
    }
}

impl Compiler {
    fn chain(&mut self, scope: &Scope, drafts: &[NodeDraft]) {
        if let Some(first) = drafts.first()
            && scope.depth > NESTING_MAX
        {
            return self.errors.push(BuildError::TooDeep { node: scope.path(&first.id) });
        }
        let mut seen = HashSet::with_capacity(drafts.len());
        let mut before = scope.within;
        for draft in drafts {
            self.check_name("node id", &draft.id);
            if !seen.insert(&draft.id) {
                self.errors.push(BuildError::DuplicateNode { id: scope.path(&draft.id) });
            }
            let node = self.node(scope, draft);
            self.edges.extend(before.map(|before| (before, node)));
            before = Some(node);
            self.op(scope, node, draft);
        }
    }

    fn node(&mut self, scope: &Scope, draft: &NodeDraft) -> u32 {
        let node = index(self.nodes.len());
        let path = NodePath::new(&scope.path(&draft.id));
        let kind = draft.kind.kind();
        let signal = match &draft.kind {
            NodeDraftKind::Wait { signal, .. } => Some(signal.clone()),
            NodeDraftKind::Loop { drains, .. } => drains.clone(),
            _ => None,
        };
        let (within, branch, branches) = (scope.within, scope.branch.clone(), draft.kind.branches());
        let form = draft.kind.form();
        self.described.push(ManifestNode { path: path.clone(), kind, signal, form, within, branch, branches });
        self.nodes.push(Node { path });
        node
    }

    fn op(&mut self, scope: &Scope, node: u32, draft: &NodeDraft) {
        match &draft.kind {
            NodeDraftKind::Task(code) => {
                let op = self.code(node, code);
                self.ops.push(Op::Task(op));
            }
            NodeDraftKind::Delay(duration) => self.ops.push(Op::Delay { node, duration: *duration }),
            NodeDraftKind::Wait { signal, payload, timeout, keeps_input } => {
                self.check_name("signal name", signal);
                let signal: Arc<str> = signal.as_str().into();
                self.declare(&signal, *payload);
                self.ops.push(Op::Wait(WaitOp { node, signal, timeout: *timeout, keeps_input: *keeps_input }));
            }
            NodeDraftKind::Fork { branches } => self.fork(&scope.inner(node, &draft.id), node, branches),
            NodeDraftKind::Route { .. } => self.route(&scope.inner(node, &draft.id), node, &draft.kind),
            NodeDraftKind::Loop { body, limit, exits, drains } => {
                let scope = scope.inner(node, &draft.id);
                if *limit == Some(0) {
                    self.errors.push(BuildError::ZeroIterations { node: self.path(node) });
                }
                let start = self.position();
                let drained = drains.as_deref().map(Arc::from);
                self.ops.push(Op::Loop(LoopOp { node, limit: *limit, exits: *exits, drains: drained }));
                self.body(&scope, body);
                self.check_drained(start, node, drains.as_deref());
                self.ops.push(Op::LoopEnd { start, node });
            }
            NodeDraftKind::Map { split, body, concurrency, collects } => {
                let scope = scope.inner(node, &draft.id);
                if *concurrency == Some(0) {
                    self.errors.push(BuildError::ZeroConcurrency { node: self.path(node) });
                }
                let (split, concurrency) = (self.code(node, split), limit(*concurrency).map(std::num::NonZeroU32::get));
                let at = self.ops.len();
                self.ops.push(Op::Map(MapOp { split, concurrency, collects: *collects, next: 0 }));
                self.body(&scope, body);
                self.ops.push(Op::BranchEnd { node });
                let behind = self.position();
                if let Some(Op::Map(MapOp { next, .. })) = self.ops.get_mut(at) {
                    *next = behind;
                }
            }
            NodeDraftKind::Child { nodes, workflow, convert } => {
                let path = self.path(node);
                self.children.push(ChildEntry { path, name: workflow.name.clone(), version: workflow.version.clone() });
                if let Some(convert) = convert {
                    let op = self.code(node, convert);
                    self.ops.push(Op::Task(op));
                }
                self.chain(&scope.inner(node, &draft.id), nodes);
            }
        }
    }

    fn fork(&mut self, scope: &Scope, node: u32, drafts: &[ChainDraft]) {
        self.check_branches(scope, node, drafts.iter());
        let at = self.ops.len();
        self.ops.push(Op::Fork(ForkOp { node, branches: Vec::new(), next: 0 }));
        let mut starts = Vec::with_capacity(drafts.len());
        for draft in drafts {
            starts.push(Target { name: draft.name.as_str().into(), start: self.position() });
            self.body(&scope.branch(&draft.name), &draft.nodes);
            self.ops.push(Op::BranchEnd { node });
        }
        let behind = self.position();
        if let Some(Op::Fork(ForkOp { branches, next, .. })) = self.ops.get_mut(at) {
            (*branches, *next) = (starts, behind);
        }
    }

    fn route(&mut self, scope: &Scope, node: u32, kind: &NodeDraftKind) {
        let NodeDraftKind::Route { decide, arms: drafts, otherwise: default, keys } = kind else { return };
        self.check_branches(scope, node, drafts.iter().chain(default));
        self.check_keys(node, drafts, default.is_some(), keys.as_deref());
        let (decide, at) = (self.code(node, decide), self.ops.len());
        self.ops.push(Op::Route(RouteOp { decide, arms: Vec::new(), otherwise: None }));
        let mut starts = Vec::with_capacity(drafts.len());
        let mut jumps = Vec::new();
        for draft in drafts.iter().chain(default) {
            starts.push(Target { name: draft.name.as_str().into(), start: self.position() });
            self.chain(&scope.branch(&draft.name), &draft.nodes);
            jumps.push(self.ops.len());
            self.ops.push(Op::Jump { to: 0 });
        }
        let behind = self.position();
        for jump in jumps {
            if let Some(Op::Jump { to }) = self.ops.get_mut(jump) {
                *to = behind;
            }
        }
        let default = default.as_ref().and_then(|_| starts.pop());
        if let Some(Op::Route(RouteOp { arms, otherwise, .. })) = self.ops.get_mut(at) {
            (*arms, *otherwise) = (starts, default.map(|target| target.start));
        }
    }

    /// Checks that the loop's own body waits for the signal it drains: nothing else can consume a
    /// signal that keeps the loop from ending.
    fn check_drained(&mut self, start: u32, node: u32, signal: Option<&str>) {
        let Some(signal) = signal else { return };
        let mut body = self.ops.iter().skip(start as usize);
        if !body.any(|op| matches!(op, Op::Wait(wait) if &*wait.signal == signal)) {
            let (node, signal) = (self.path(node), signal.to_owned());
            self.errors.push(BuildError::NothingDrains { node, signal });
        }
    }

    /// Compiles a chain that must not be empty.
    fn body(&mut self, scope: &Scope, drafts: &[NodeDraft]) {
        if drafts.is_empty() {
            self.errors.push(BuildError::EmptyChain { chain: scope.prefix.trim_end_matches('/').to_owned() });
        }
        self.chain(scope, drafts);
    }

    fn check_branches<'a>(&mut self, scope: &Scope, node: u32, drafts: impl Iterator<Item = &'a ChainDraft>) {
        let mut seen = HashSet::new();
        for draft in drafts {
            self.check_name("branch id or route key", &draft.name);
            if !seen.insert(&draft.name) {
                self.errors.push(BuildError::DuplicateNode { id: scope.path(&draft.name) });
            }
        }
        if seen.is_empty() {
            self.errors.push(BuildError::NoBranches { node: self.path(node) });
        }
    }

    fn check_keys(&mut self, node: u32, arms: &[ChainDraft], has_default: bool, keys: Option<&[String]>) {
        let (route, Some(keys)) = (self.path(node), keys) else { return };
        for arm in arms.iter().filter(|arm| !keys.contains(&arm.name)) {
            self.errors.push(BuildError::OrphanArm { route: route.clone(), key: arm.name.clone() });
        }
        let has_arm = |key: &&String| arms.iter().any(|arm| arm.name == **key);
        let missing: Vec<_> = keys.iter().filter(|key| !has_default && !has_arm(key)).cloned().collect();
        if !missing.is_empty() && !arms.is_empty() {
            self.errors.push(BuildError::MissingArms { route, keys: missing });
        }
    }

    fn code(&mut self, node: u32, code: &ErasedTask) -> TaskOp {
        let options = Arc::clone(&code.options);
        let task = index(self.tasks.len());
        self.tasks.push(code.clone());
        TaskOp {
            node,
            task,
            retry: options.retry.clone(),
            timeout: options.timeout,
            priority: options.priority,
            tags: options.tags.as_slice().into(),
            deferred: options.checkpoint == Checkpoint::Deferred,
        }
    }

    fn declare(&mut self, signal: &Arc<str>, payload: SignalType) {
        let first = *self.signals.entry(Arc::clone(signal)).or_insert(payload);
        if first.type_id != payload.type_id {
            self.errors.push(BuildError::SignalTypes {
                signal: signal.to_string(),
                first: first.type_name,
                second: payload.type_name,
            });
        }
    }

    fn check_name(&mut self, what: &'static str, name: &str) {
        if let Err(error) = check_name(what, name) {
            self.errors.push(BuildError::BadName { name: name.to_owned(), error });
        }
    }

    /// Returns the index of the next op.
    fn position(&self) -> u32 {
        index(self.ops.len())
    }

    fn path(&self, node: u32) -> String {
        self.nodes.get(node as usize).map_or_else(String::new, |node| node.path.to_string())
    }

    fn check_new_names(&mut self, about: &About) {
        let known: HashSet<&str> = self.nodes.iter().map(|node| node.path.as_str()).collect();
        let renamed = about.upgrades_from.iter().flat_map(|upgrade_from| &upgrade_from.renamed);
        let errors: Vec<_> = renamed
            .filter(|(_, new)| !known.contains(new.as_str()))
            .map(|(old, new)| BuildError::UnknownNewName { renamed: old.clone(), path: new.clone() })
            .collect();
        self.errors.extend(errors);
    }

    fn finish(mut self, about: About, drafts: Vec<NodeDraft>) -> Result<Definition, BuildErrors> {
        self.check_new_names(&about);
        if !self.errors.is_empty() {
            return Err(BuildErrors(self.errors));
        }
        let About { info, deadline, upgrades_from } = about;
        let options = |task: u32| self.tasks.get(task as usize).map(|task| &*task.options);
        let hash = hash(&info, &self.ops, &self.nodes, &self.children, options);
        let (name, version) = (info.name.clone(), info.version.clone());
        let manifest = Manifest { name, version, nodes: self.described, edges: self.edges };
        let signals = self.signals.keys().cloned().collect();
        let program = Program { hash, ops: self.ops, nodes: self.nodes, signals, deadline };
        let (info, drafts) = (Arc::new(info), drafts.into());
        let (tasks, signals) = (self.tasks, self.signals);
        Ok(Definition {
            info,
            program,
            tasks,
            signals,
            manifest,
            drafts,
            upgrades_from,
            #[cfg(feature = "testing")]
            stubs: std::collections::BTreeSet::new(),
        })
    }
}

impl NodeDraftKind {
    fn form(&self) -> String {
        let form = match self {
            Self::Wait { timeout, keeps_input, .. } => match (timeout, keeps_input) {
                (None, false) => "",
                (Some(_), false) => "timeout",
                (None, true) => "keeping",
                (Some(_), true) => "keeping timeout",
            },
            Self::Map { collects: true, .. } => "collecting",
            Self::Loop { drains: Some(_), .. } => "draining",
            _ => "",
        };
        form.to_owned()
    }

    fn kind(&self) -> NodeKind {
        match self {
            Self::Task(_) => NodeKind::Task,
            Self::Delay(_) => NodeKind::Delay,
            Self::Wait { .. } => NodeKind::Signal,
            Self::Fork { .. } => NodeKind::Fork,
            Self::Route { .. } => NodeKind::Route,
            Self::Loop { .. } => NodeKind::Loop,
            Self::Map { .. } => NodeKind::Map,
            Self::Child { .. } => NodeKind::Child,
        }
    }

    /// Returns the names of its branches or arms.
    fn branches(&self) -> Vec<String> {
        let (chains, last) = match self {
            Self::Fork { branches } => (branches.as_slice(), None),
            Self::Route { arms, otherwise, .. } => (arms.as_slice(), otherwise.as_ref()),
            _ => (&[][..], None),
        };
        chains.iter().chain(last).map(|chain| chain.name.clone()).collect()
    }
}

/// Returns an index into a table of at most [`NODES_MAX`] nodes and the ops between them. The build
/// fails anyway beyond that.
fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;
    use crate::{Workflow, task};

    async fn double(n: u32) -> Result<u32, Infallible> {
        Ok(2 * n)
    }

    #[test]
    fn build_reports_all_errors_at_once() {
        let errors = Workflow::builder("a/b")
            .then("x", double)
            .then("x", double)
            .then("", double)
            .wait_for_signal::<u32>("w1", "go")
            .wait_for_signal::<String>("w2", "go")
            .build()
            .unwrap_err()
            .0;
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(matches!(&errors[0], BuildError::BadName { name, .. } if name == "a/b"));
        assert!(matches!(&errors[1], BuildError::DuplicateNode { id } if id == "x"));
        assert!(matches!(&errors[2], BuildError::BadName { name, .. } if name.is_empty()));
        assert!(matches!(&errors[3], BuildError::SignalTypes { signal, .. } if signal == "go"));
    }

    #[test]
    fn empty_workflow_is_refused() {
        let errors = Workflow::builder_for::<u32>("nothing").build().unwrap_err();
        assert_eq!(errors.0, [BuildError::Empty { workflow: "nothing".into() }]);
    }

    #[test]
    fn ten_thousand_nodes_build_in_a_loop() {
        let chain = (0..10_000).fold(Workflow::builder_for::<u32>("long"), |b, n| b.then(format!("n{n}"), double));
        assert_eq!(chain.build().unwrap().definition().program().ops.len(), 10_001);
    }

    /// Method: tuning must not strand instances; a changed structure or version must change the
    /// hash.
    #[test]
    fn hash_follows_structure_and_not_tuning() {
        let base =
            || Workflow::builder("w").then("a", double).delay("d", Duration::from_secs(1)).build().unwrap().hash();
        let tuned = Workflow::builder("w")
            .description("text")
            .then("a", task(double).timeout(Duration::from_secs(1)).tag("t"))
            .delay("d", Duration::from_secs(9));
        assert_eq!(tuned.build().unwrap().hash(), base());
        let versioned = Workflow::builder("w").then("a", task(double).version("2")).delay("d", Duration::from_secs(1));
        assert_ne!(versioned.build().unwrap().hash(), base());
        let renamed = Workflow::builder("w").then("b", double).delay("d", Duration::from_secs(1));
        assert_ne!(renamed.build().unwrap().hash(), base());
        let newer = Workflow::builder("w").version("2").then("a", double).delay("d", Duration::from_secs(1));
        assert_ne!(newer.build().unwrap().hash(), base());
    }
}
