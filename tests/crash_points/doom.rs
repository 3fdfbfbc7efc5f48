//! A process that ends after a given commit, as its store sees it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use everstep::machine::{RowKey, decode_head};
use everstep::store::{Answers, Change, Write};
use everstep::{BoxFuture, CancellationToken, Definition, MemoryStore, Status, Store as _, StoreError, Token};
use tokio::sync::{mpsc, oneshot, watch};

use crate::tasks::{Item, List};
use crate::through::Hooks;

/// The end of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// The number of the last commit, each of one transition.
    pub(crate) commit: u64,
    /// True if work continues until one more commit is tried. Otherwise no caller learns of the
    /// last one.
    pub(crate) answered: bool,
}

/// State that became durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    pub(crate) commits: u64,
    /// Statuses of the instance.
    pub(crate) statuses: Vec<Status>,
    /// The idempotency keys of tasks whose results are recorded.
    pub(crate) keys: HashSet<String>,
}

/// Requests to call the instance before each commit; each is answered once the call is on its way.
pub(crate) type Pokes = mpsc::UnboundedSender<oneshot::Sender<()>>;

pub(crate) struct Doom {
    definition: Arc<Definition>,
    end: Option<End>,
    pub(crate) over: CancellationToken,
    pub(crate) durable: Mutex<Durable>,
    /// Number of commits, updated after each.
    pub(crate) commits: watch::Sender<u64>,
    pub(crate) pokes: Mutex<Option<Pokes>>,
}

impl Doom {
    pub(crate) fn new(definition: &Arc<Definition>, end: Option<End>) -> Arc<Self> {
        Arc::new(Self {
            definition: Arc::clone(definition),
            end,
            over: CancellationToken::new(),
            durable: Mutex::default(),
            commits: watch::channel(0).0,
            pokes: Mutex::default(),
        })
    }

    async fn poke(&self) {
        let pokes = self.pokes.lock().unwrap().clone();
        if let Some(pokes) = pokes {
            let (sent, on_its_way) = oneshot::channel();
            // The receiver may have gone.
            if pokes.send(sent).is_ok() {
                let _ = on_its_way.await;
            }
        }
    }

    fn is_over(&self, answered: bool) -> bool {
        let commits = self.durable.lock().unwrap().commits;
        self.end.is_some_and(|end| end.commit == commits && end.answered == answered)
    }

    fn end(&self) -> StoreError {
        self.over.cancel();
        StoreError::Fatal("the process is gone".into())
    }

    /// Commits each transition alone, so that the process can end after each.
    async fn commit_each(&self, store: &MemoryStore, batch: &[Write]) -> Result<Answers, StoreError> {
        self.check()?;
        self.poke().await;
        let mut answers = Vec::new();
        for write in batch {
            if self.is_over(true) {
                return Err(self.end());
            }
            let answer = store.commit(std::slice::from_ref(write)).await?;
            if answer.iter().all(Result::is_ok) {
                self.note(write);
            }
            answers.extend(answer);
            if self.is_over(false) {
                return Err(self.end());
            }
        }
        self.commits.send_modify(|commits| *commits += 1);
        Ok(answers)
    }

    fn note(&self, write: &Write) {
        let mut durable = self.durable.lock().unwrap();
        durable.commits += 1;
        let Change::Head(head) = &write.change else { panic!("quarantined: {write:?}") };
        let snapshot = decode_head(&write.instance, head).unwrap();
        durable.statuses.push(snapshot.status(self.definition.program()));
        for row in &write.rows {
            if let (RowKey::Result(..), Some(value)) = (&row.key, &row.value) {
                durable.keys.insert(key_in(&snapshot.open_row(&row.key, value).unwrap().1));
            }
        }
        let kept = snapshot.inline_results().filter_map(|(_, result)| match result.tokens().last() {
            Some(Token::Leaf(leaf)) => Some(key_in(&leaf.bytes)),
            _ => None,
        });
        durable.keys.extend(kept);
    }
}

impl Hooks for Doom {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(self.commit_each(store, batch))
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.over.is_cancelled() { Err(self.end()) } else { Ok(()) }
    }
}

/// Returns the key in a recorded result: that of the task that returned it.
fn key_in(payload: &Bytes) -> String {
    let list = rmp_serde::from_slice::<List>(payload).ok();
    let list = list.or_else(|| rmp_serde::from_slice::<Vec<List>>(payload).ok()?.pop());
    let item = list.and_then(|mut list| list.pop()).or_else(|| rmp_serde::from_slice::<Item>(payload).ok());
    item.unwrap().key
}
