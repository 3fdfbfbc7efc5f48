//! Nodes as they were added, before they are checked and compiled.

use std::sync::Arc;
use std::time::Duration;

use super::handler::ErasedTask;
use super::workflow::SignalType;
use super::{UpgradeFrom, WorkflowInfo};

/// Everything set on a workflow before its first node.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) info: WorkflowInfo,
    pub(super) deadline: Option<Duration>,
    pub(super) upgrades_from: Vec<UpgradeFrom>,
}

/// A node as it was added.
#[derive(Clone)]
pub(super) struct NodeDraft {
    pub(super) id: String,
    pub(super) kind: NodeDraftKind,
}

#[derive(Clone)]
pub(super) enum NodeDraftKind {
    Task(ErasedTask),
    Delay(Duration),
    Wait {
        signal: String,
        payload: SignalType,
        timeout: Option<Duration>,
        keeps_input: bool,
    },
    Fork {
        branches: Vec<ChainDraft>,
    },
    Route {
        decide: ErasedTask,
        arms: Vec<ChainDraft>,
        otherwise: Option<ChainDraft>,
        /// All keys, if they are known.
        keys: Option<Vec<String>>,
    },
    Loop {
        body: Vec<NodeDraft>,
        limit: Option<u64>,
        exits: bool,
        /// The signal of which none may be left buffered when the loop ends.
        drains: Option<String>,
    },
    Map {
        split: ErasedTask,
        body: Vec<NodeDraft>,
        concurrency: Option<usize>,
        collects: bool,
    },
    Child {
        nodes: Arc<[NodeDraft]>,
        workflow: WorkflowInfo,
        /// Code that turns a value of several payloads into one, since a workflow's input is one
        /// payload. Absent if the value is one payload already.
        convert: Option<ErasedTask>,
    },
}

/// A named chain within a node: a branch, or an arm.
#[derive(Clone)]
pub(super) struct ChainDraft {
    pub(super) name: String,
    pub(super) nodes: Vec<NodeDraft>,
}
