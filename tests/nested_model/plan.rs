//! Workflows of every kind of node as they are drawn, and again with every id, fold and conversion
//! written out, as the builder gets them and the naive interpreter walks them.

use std::collections::HashSet;

/// A node as it is drawn. Times in seconds.
#[derive(Clone, Debug)]
pub(crate) enum Spec {
    Task(Options),
    Delay(u64),
    Wait {
        signal: &'static str,
        timeout: Option<u64>,
        keeps: bool,
    },
    Fork(Vec<Vec<Spec>>),
    Route {
        typed: bool,
        arms: Vec<Vec<Spec>>,
        otherwise: Option<Vec<Spec>>,
    },
    /// Drains the signal of the first wait directly in its body, if it has one.
    Loop {
        limit: Option<u64>,
        exits: bool,
        drains: bool,
        body: Vec<Spec>,
        end: End,
    },
    Map {
        concurrency: Option<usize>,
        collects: bool,
        body: Vec<Spec>,
    },
    Child(Vec<Spec>),
}

/// The end of a loop's body.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Task(Options),
    TaskThenDelay(u64),
    Route(Vec<Spec>),
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) retries: u32,
    pub(crate) backoff: u64,
    pub(crate) timeout: Option<u64>,
}

/// A chain; at `end` begins the part that ends a loop's body.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) nodes: Vec<Node>,
    pub(crate) end: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Task { options: Options, gives: Gives, reads: Reads },
    Delay(u64),
    Wait { signal: &'static str, timeout: Option<u64>, keeps: bool },
    Fork { branches: Vec<(String, Chain)>, gives: Option<Shape> },
    Route { typed: bool, arms: Vec<(String, Chain)>, otherwise: Option<Chain>, gives: Shape },
    Loop { limit: Option<u64>, exits: bool, drains: Option<&'static str>, body: Chain },
    Map { concurrency: Option<usize>, collects: bool, body: Chain, gives: Shape },
    Child { nodes: Chain, converts: bool, gives: Shape },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Gives {
    Text,
    List,
    Turn { again: Shape, done: Shape },
}

/// The way in which a task's input is put together.
#[derive(Clone, Debug)]
pub(crate) enum Reads {
    Plain,
    Named(Vec<String>),
    Tuple,
}

/// The type that flows: `String`, `SignalOutcome<String>`, a pair of both, `Vec<String>`, or a
/// loop's result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Text,
    Outcome,
    Both,
    List,
    Turn,
}

impl Chain {
    /// Collects the names of the signals it waits for.
    pub(crate) fn declared(&self, signals: &mut HashSet<&'static str>) {
        for node in &self.nodes {
            if let What::Wait { signal, .. } = node.what {
                signals.insert(signal);
            }
            node.inner().into_iter().for_each(|chain| chain.declared(signals));
        }
    }
}

impl Node {
    /// Returns the chains within it.
    pub(crate) fn inner(&self) -> Vec<&Chain> {
        match &self.what {
            What::Task { .. } | What::Delay(_) | What::Wait { .. } => Vec::new(),
            What::Fork { branches, .. } => branches.iter().map(|(_, chain)| chain).collect(),
            What::Route { arms, otherwise, .. } => arms.iter().map(|(_, chain)| chain).chain(otherwise).collect(),
            What::Loop { body, .. } | What::Map { body, .. } => vec![body],
            What::Child { nodes, .. } => vec![nodes],
        }
    }
}

/// A chain in the making: the shape at its end, and whether that may be a structure of the
/// machine's.
struct Maker {
    prefix: String,
    nodes: Vec<Node>,
    shape: Shape,
    structural: bool,
}

/// Returns the plan of a whole workflow.
pub(crate) fn plan(specs: &[Spec]) -> Chain {
    let mut maker = Maker::chain("", (Shape::Text, false), specs);
    maker.narrow();
    maker.done()
}

impl Maker {
    fn chain(prefix: &str, (shape, structural): (Shape, bool), specs: &[Spec]) -> Self {
        let mut maker = Self { prefix: prefix.into(), nodes: Vec::new(), shape, structural };
        for spec in specs {
            maker.add(spec);
        }
        maker
    }

    fn done(self) -> Chain {
        Chain { end: self.nodes.len(), nodes: self.nodes }
    }

    fn kind(&self) -> (Shape, bool) {
        (self.shape, self.structural)
    }

    /// Returns the prefix of the paths within the next node.
    fn inner(&self) -> String {
        format!("{}n{:02}/", self.prefix, self.nodes.len())
    }

    fn push(&mut self, what: What, shape: Shape, structural: bool) {
        let id = format!("n{:02}", self.nodes.len());
        let path = format!("{}{id}", self.prefix);
        self.nodes.push(Node { id, path, what });
        (self.shape, self.structural) = (shape, structural);
    }

    fn task(&mut self, options: Options, gives: Gives, reads: Reads) {
        let shape = match gives {
            Gives::Text => Shape::Text,
            Gives::List => Shape::List,
            Gives::Turn { .. } => Shape::Turn,
        };
        self.push(What::Task { options, gives, reads }, shape, false);
    }

    fn fold(&mut self) {
        self.task(Options::default(), Gives::Text, Reads::Plain);
    }

    fn narrow(&mut self) {
        if matches!(self.shape, Shape::Both | Shape::List) {
            self.fold();
        }
    }

    /// Makes several chains return the same type.
    fn unify(chains: &mut [Self]) -> Shape {
        chains.iter_mut().for_each(Self::narrow);
        if chains.iter().all(|chain| chain.shape == Shape::Outcome) {
            return Shape::Outcome;
        }
        chains.iter_mut().filter(|chain| chain.shape == Shape::Outcome).for_each(Self::fold);
        Shape::Text
    }

    fn add(&mut self, spec: &Spec) {
        match spec {
            Spec::Task(options) => self.task(*options, Gives::Text, Reads::Plain),
            Spec::Delay(seconds) => self.push(What::Delay(*seconds), self.shape, self.structural),
            Spec::Wait { signal, timeout, keeps } => {
                let (shape, folds) = match (keeps, timeout) {
                    (false, None) => (Shape::Text, false),
                    (false, Some(_)) => (Shape::Outcome, false),
                    (true, Some(_)) if self.shape == Shape::Text => (Shape::Both, false),
                    (true, _) => (Shape::Text, true),
                };
                self.push(What::Wait { signal, timeout: *timeout, keeps: *keeps }, shape, shape != Shape::Text);
                if folds {
                    self.fold();
                }
            }
            Spec::Fork(branches) => self.fork(branches),
            Spec::Route { typed, arms, otherwise } => self.route(*typed, arms, otherwise.as_deref()),
            Spec::Loop { limit, exits, drains, body, end } => self.repeat(*limit, (*exits, *drains), body, end),
            Spec::Map { concurrency, collects, body } => self.map(*concurrency, *collects, body),
            Spec::Child(specs) => {
                let mut child = Self::chain(&self.inner(), (self.shape, false), specs);
                child.narrow();
                let ((gives, structural), converts) = (child.kind(), self.structural);
                self.push(What::Child { nodes: child.done(), converts, gives }, gives, structural);
            }
        }
    }

    fn fork(&mut self, branches: &[Vec<Spec>]) {
        let names: Vec<_> = (0..branches.len()).map(|n| format!("b{n}")).collect();
        let inner = self.inner();
        let chain = |(name, specs): (&String, &Vec<Spec>)| Self::chain(&format!("{inner}{name}/"), self.kind(), specs);
        let mut chains: Vec<_> = names.iter().zip(branches).map(chain).collect();
        chains.iter_mut().for_each(Self::narrow);
        let mixed = matches!(&*chains, [left, right] if (left.shape, right.shape) == (Shape::Text, Shape::Outcome));
        let gives = (!mixed).then(|| Self::unify(&mut chains));
        let branches = names.iter().cloned().zip(chains.into_iter().map(Self::done)).collect();
        self.push(What::Fork { branches, gives }, Shape::Text, false);
        let reads = if mixed { Reads::Tuple } else { Reads::Named(names) };
        self.task(Options { retries: 1, ..Options::default() }, Gives::Text, reads);
    }

    fn route(&mut self, typed: bool, arms: &[Vec<Spec>], otherwise: Option<&[Spec]>) {
        let keys: &[&str] = if typed { &["false", "true"] } else { &["a", "b", "c"] };
        let inner = self.inner();
        let chain = |(key, specs): (&str, &[Spec])| Self::chain(&format!("{inner}{key}/"), self.kind(), specs);
        // A typed route has an arm for every key, or a default one.
        let all = keys.iter().copied().zip(arms.iter().map(Vec::as_slice));
        let mut names: Vec<&str> = keys.iter().copied().take(arms.len()).collect();
        let mut chains: Vec<_> = all.map(chain).collect();
        let otherwise = otherwise.or((typed && names.len() < keys.len()).then_some(&[][..]));
        let otherwise = otherwise.map(|specs| chain(("otherwise", specs)));
        let has_default = otherwise.is_some();
        names.truncate(chains.len());
        chains.extend(otherwise);
        let gives = Self::unify(&mut chains);
        let structural = chains.iter().any(|chain| chain.structural);
        let otherwise = has_default.then(|| chains.pop().unwrap().done());
        let arms = names.into_iter().map(str::to_owned).zip(chains.into_iter().map(Self::done)).collect();
        self.push(What::Route { typed, arms, otherwise, gives }, gives, structural);
    }

    fn repeat(&mut self, limit: Option<u64>, (exits, drains): (bool, bool), body: &[Spec], end: &End) {
        self.narrow();
        let waits =
            body.iter().find_map(|spec| if let Spec::Wait { signal, .. } = spec { Some(*signal) } else { None });
        let drains = waits.filter(|_| drains);
        let (again, exits) = (self.shape, exits && limit.is_some() && drains.is_none());
        let done = if exits || drains.is_some() { again } else { Shape::Text };
        let mut body = Self::chain(&self.inner(), self.kind(), body);
        let at = body.nodes.len();
        body.end(end, again, done);
        let body = Chain { nodes: body.nodes, end: at };
        self.push(What::Loop { limit, exits, drains, body }, done, false);
    }

    fn end(&mut self, end: &End, again: Shape, done: Shape) {
        let gives = Gives::Turn { again, done };
        match end {
            End::Task(options) => self.task(*options, gives, Reads::Plain),
            End::TaskThenDelay(seconds) => {
                self.task(Options::default(), gives, Reads::Plain);
                self.push(What::Delay(*seconds), Shape::Turn, false);
            }
            End::Route(specs) => {
                let arm = |key: &str, specs: &[Spec]| {
                    let mut arm = Self::chain(&format!("{}{key}/", self.inner()), self.kind(), specs);
                    let at = arm.nodes.len();
                    arm.end(&End::Task(Options::default()), again, done);
                    Chain { nodes: arm.nodes, end: at }
                };
                let arms = vec![("false".to_owned(), arm("false", specs)), ("true".to_owned(), arm("true", &[]))];
                let route = What::Route { typed: true, arms, otherwise: None, gives: Shape::Turn };
                self.push(route, Shape::Turn, false);
            }
        }
    }

    fn map(&mut self, concurrency: Option<usize>, collects: bool, body: &[Spec]) {
        if self.shape != Shape::List {
            self.task(Options::default(), Gives::List, Reads::Plain);
        }
        let mut body = Self::chain(&self.inner(), (Shape::Text, false), body);
        body.narrow();
        let gives = body.shape;
        self.push(What::Map { concurrency, collects, body: body.done(), gives }, Shape::List, true);
        if collects || gives == Shape::Outcome {
            self.fold();
        }
    }
}
