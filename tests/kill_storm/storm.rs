//! The parent: sends requests, records acknowledgements, kills the child, and starts it again.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use everstep::{Clock as _, SystemClock};
use tokio::time::Instant;

use crate::child::{Ask, Says, What};
use crate::instance::Instance;
use crate::kill::{PEACE, Random};
use crate::kinds::Kind;
use crate::process::{Child, Said};

/// The most instances that have not ended.
const UNFINISHED_MAX: usize = 40;
/// The most awaited answers, besides those for an end.
const ASKED_MAX: usize = 16;
/// Kills before everything in progress ends: fewer than the crashes in a row that quarantine an
/// instance, since an instance that is killed again and again before any progress looks like one
/// that crashes the process.
const KILLS_IN_A_ROW: u32 = everstep::limits::CRASHES_MAX - 1;

pub(crate) struct Storm<'a> {
    test: &'static str,
    data: &'a Path,
    random: &'a mut Random,
    pub(crate) instances: Vec<Instance>,
    /// Instances that have not ended, as far as is known.
    unfinished: Vec<usize>,
    life: u32,
    asks: u64,
    /// Requests of this process without an answer, each with its instance.
    open: HashMap<u64, (usize, What)>,
    pub(crate) answers: u64,
}

impl<'a> Storm<'a> {
    pub(crate) fn new(test: &'static str, data: &'a Path, random: &'a mut Random) -> Self {
        Self {
            test,
            data,
            random,
            instances: Vec::new(),
            unfinished: Vec::new(),
            life: 0,
            asks: 0,
            open: HashMap::new(),
            answers: 0,
        }
    }

    fn spawn(&mut self) -> Child {
        self.life += 1;
        self.open.clear();
        self.instances.iter_mut().for_each(Instance::process_crashed);
        Child::spawn(self.test, self.data, self.life)
    }

    /// Runs one child until a kill: now and then while it is still starting, else some time after
    /// that. In some children everything in progress ends before that time begins.
    pub(crate) async fn life(&mut self) {
        let mut child = self.spawn();
        if self.life.is_multiple_of(KILLS_IN_A_ROW) {
            self.end_all(&mut child).await;
        }
        let early = self.random.below(4) == 0;
        let started = child.is_ready || early;
        let ms = self.random.below(if child.is_ready { 300 } else { 100 });
        let mut until = Instant::now() + if started { Duration::from_millis(ms) } else { PEACE };
        loop {
            self.ask(&mut child, false).await;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => break,
                said = child.said() => match said {
                    Some(Said::Ready) if early => {}
                    Some(Said::Ready) => until = Instant::now() + Duration::from_millis(self.random.below(300)),
                    Some(Said::Answer(says)) => self.heard(&says),
                    None => self.fail("the child ended before it was killed"),
                },
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
        }
        self.kill(child).await;
    }

    /// Runs two children undisturbed: everything ends, and is unchanged in the second.
    pub(crate) async fn settle(&mut self) {
        let mut child = self.spawn();
        self.end_all(&mut child).await;
        self.kill(child).await;
        let mut child = self.spawn();
        let mut left = 0..self.instances.len();
        loop {
            while self.open.len() < ASKED_MAX
                && let Some(n) = left.next()
            {
                self.send(&mut child, n, What::Await).await;
            }
            if self.open.is_empty() {
                break;
            }
            self.listen(&mut child, Instant::now() + PEACE).await;
        }
        self.kill(child).await;
    }

    /// Handles the child's next line, if one comes by then.
    async fn listen(&mut self, child: &mut Child, until: Instant) {
        tokio::select! {
            said = child.said() => match said {
                Some(Said::Answer(says)) => self.heard(&says),
                Some(Said::Ready) => {}
                None => self.fail("the child ended without a kill"),
            },
            () = tokio::time::sleep_until(until) => self.fail("not everything ends"),
        }
    }

    /// Waits until every started instance has ended.
    async fn end_all(&mut self, child: &mut Child) {
        let until = Instant::now() + PEACE;
        loop {
            self.ask(child, true).await;
            if child.is_ready && self.open.is_empty() && self.unfinished.is_empty() {
                return;
            }
            self.listen(child, until).await;
        }
    }

    async fn kill(&mut self, mut child: Child) {
        child.kill().await;
        while let Some(said) = child.said().await {
            if let Said::Answer(says) = said {
                self.heard(&says);
            }
        }
    }

    /// Sends as many requests as may be open at once.
    async fn ask(&mut self, child: &mut Child, in_peace: bool) {
        if !in_peace && self.unfinished.len() < UNFINISHED_MAX {
            let (n, kind) = (self.instances.len(), self.random.below(Kind::ALL.len() as u64) as usize);
            self.instances.push(Instance::new(format!("i{n}"), Kind::ALL[kind], self.random.below(1_000) as u32));
            self.unfinished.push(n);
        }
        let now = SystemClock.now().as_micros();
        // And one of all instances, ended or not.
        let any = self.random.below(self.instances.len().max(1) as u64) as usize;
        let any = (!in_peace && any < self.instances.len()).then_some(any);
        for n in self.unfinished.iter().copied().chain(any).collect::<Vec<_>>() {
            if self.asked() >= ASKED_MAX {
                return;
            }
            if let Some(what) = self.instances[n].next(self.random, now, in_peace) {
                self.send(child, n, what).await;
            }
        }
    }

    /// Returns the number of awaited answers, besides those for an end.
    fn asked(&self) -> usize {
        self.open.values().filter(|(_, what)| *what != What::Await).count()
    }

    async fn send(&mut self, child: &mut Child, n: usize, what: What) {
        self.asks += 1;
        let Instance { kind, id, .. } = &self.instances[n];
        let ask = Ask { number: self.asks, kind: *kind, instance: id.clone(), what: what.clone() };
        self.open.insert(self.asks, (n, what));
        child.ask(&ask).await;
    }

    fn heard(&mut self, says: &Says) {
        let (n, what) = self.open.remove(&says.number).unwrap();
        self.answers += 1;
        if let Err(wrong) = self.instances[n].answered(&what, &says.answer, self.life) {
            let Instance { id, kind, .. } = &self.instances[n];
            self.fail(&format!("{id} ({kind:?}), request {what:?}: {wrong}"));
        }
        if self.instances[n].end.is_some() {
            self.unfinished.retain(|one| *one != n);
        }
    }

    fn fail(&self, why: &str) -> ! {
        let life = self.life;
        let errors = std::fs::read_to_string(self.data.join("stderr")).unwrap_or_default();
        let open: Vec<_> = self.unfinished.iter().map(|n| (&self.instances[*n].id, self.instances[*n].kind)).collect();
        let awaited: Vec<_> = self.open.values().map(|(n, what)| (&self.instances[*n].id, what)).collect();
        panic!("in process {life}: {why}\nunfinished: {open:?}\nnot answered: {awaited:?}\n{errors}");
    }
}
