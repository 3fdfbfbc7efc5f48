//! Fork and join: branches side by side, and the task that gets their outputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::{About, ChainDraft, NodeDraftKind};
use super::{Builder, Handler};
use crate::codec::{CodecError, Decode, Output, Reader};

/// The branches of a fork with outputs `T`, a tuple: made by [`Builder::fork`].
pub struct Fork<O, T> {
    about: Arc<About>,
    input: Decode<O>,
    branches: Vec<ChainDraft>,
    read: Arc<ReadBranches<T>>,
}

type ReadBranches<T> = dyn Fn(&mut Reader<'_>) -> Result<T, CodecError> + Send + Sync;

/// The branches of a fork that all return an `X`, by name: made by [`Builder::fork_by_name`].
pub struct NamedFork<O, X> {
    about: Arc<About>,
    input: Decode<O>,
    branches: Vec<ChainDraft>,
    decodes: Vec<(String, Decode<X>)>,
}

/// A fork that still needs its join.
#[must_use = "a fork ends with its join"]
pub struct Join<I, T> {
    builder: Builder<I, T>,
}

/// A tuple to which one more element can be appended.
#[doc(hidden)]
#[diagnostic::on_unimplemented(message = "a fork has at most 12 branches: use `fork_by_name` for more")]
pub trait Append<X> {
    /// The longer tuple.
    type Longer;

    /// Appends one element.
    fn append(self, one: X) -> Self::Longer;
}

macro_rules! impl_append {
    ($($part:ident)*) => {
        impl<X, $($part,)*> Append<X> for ($($part,)*) {
            type Longer = ($($part,)* X,);

            fn append(self, one: X) -> Self::Longer {
                #[allow(non_snake_case, reason = "parts are named as their types")]
                let ($($part,)*) = self;
                ($($part,)* one,)
            }
        }
    };
}

impl_append!();
impl_append!(A);
impl_append!(A B);
impl_append!(A B C);
impl_append!(A B C D);
impl_append!(A B C D E);
impl_append!(A B C D E F);
impl_append!(A B C D E F G);
impl_append!(A B C D E F G H);
impl_append!(A B C D E F G H J);
impl_append!(A B C D E F G H J K);
impl_append!(A B C D E F G H J K L);

impl<I, O: Send + 'static> Builder<I, O> {
    /// Adds a fork: every branch gets the value that flows in, and all run side by side, each a
    /// chain of any nodes. The task passed to [`Join::join`] gets their outputs, as a tuple in the
    /// order of the branches.
    ///
    /// A branch whose task fails for good fails the instance with that task's error; the other
    /// branches are cancelled and keep their positions, so that a retry resumes each. A branch that
    /// waits leaves the others running.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use everstep::Workflow;
    ///
    /// async fn double(n: u32) -> Result<u32, Infallible> {
    ///     Ok(2 * n)
    /// }
    /// async fn show(n: u32) -> Result<String, Infallible> {
    ///     Ok(n.to_string())
    /// }
    /// async fn sum((doubled, shown): (u32, String)) -> Result<String, Infallible> {
    ///     Ok(format!("twice {shown} is {doubled}"))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let workflow = Workflow::builder_for::<u32>("both")
    ///     .fork("work", |fork| {
    ///         fork.branch("double", |branch| branch.then("double", double))
    ///             .branch("show", |branch| branch.then("show", show))
    ///     })
    ///     .join("sum", sum)
    ///     .build()?;
    /// assert_eq!(workflow.run_once(3).await?, "twice 3 is 6");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork<T: Send + 'static>(
        mut self,
        id: impl Into<String>,
        branches: impl FnOnce(Fork<O, ()>) -> Fork<O, T>,
    ) -> Join<I, T> {
        let none = Fork {
            about: Arc::clone(&self.about),
            input: self.decode.clone(),
            branches: Vec::new(),
            read: Arc::new(|_: &mut Reader<'_>| Ok(())),
        };
        let Fork { branches, read, .. } = branches(none);
        let decode = Decode::branches(branches.len(), move |reader| read(reader));
        self.add(id, NodeDraftKind::Fork { branches });
        Join { builder: self.flowing(decode) }
    }

    /// Adds a fork whose branches all return the same type. Any number of branches can be added,
    /// also in a loop. The join gets their outputs by branch name.
    pub fn fork_by_name<X: Send + 'static>(
        mut self,
        id: impl Into<String>,
        branches: impl FnOnce(NamedFork<O, X>) -> NamedFork<O, X>,
    ) -> Join<I, BTreeMap<String, X>> {
        let (about, input) = (Arc::clone(&self.about), self.decode.clone());
        let none = NamedFork { about, input, branches: Vec::new(), decodes: Vec::new() };
        let NamedFork { branches, decodes, .. } = branches(none);
        self.add(id, NodeDraftKind::Fork { branches });
        Join { builder: self.flowing(Decode::named(decodes)) }
    }
}

impl<O: Send + 'static, T: 'static> Fork<O, T> {
    /// Adds a branch. Its nodes' paths begin with the fork's id and this one.
    pub fn branch<X>(
        mut self,
        id: impl Into<String>,
        chain: impl FnOnce(Builder<O, O>) -> Builder<O, X>,
    ) -> Fork<O, T::Longer>
    where
        X: Send + 'static,
        T: Append<X>,
    {
        let chain = chain(Builder::within(&self.about, self.input.clone()));
        self.branches.push(ChainDraft { name: id.into(), nodes: chain.nodes });
        let (before, decode) = (self.read, chain.decode);
        let read: Arc<ReadBranches<T::Longer>> = Arc::new(move |reader: &mut Reader<'_>| {
            let tuple = before(reader)?;
            Ok(tuple.append(decode.read(reader)?))
        });
        Fork { about: self.about, input: self.input, branches: self.branches, read }
    }
}

impl<O: Send + 'static, X: Send + 'static> NamedFork<O, X> {
    /// Adds a branch. Its nodes' paths begin with the fork's id and this one.
    pub fn branch(mut self, id: impl Into<String>, chain: impl FnOnce(Builder<O, O>) -> Builder<O, X>) -> Self {
        let (name, chain) = (id.into(), chain(Builder::within(&self.about, self.input.clone())));
        self.decodes.push((name.clone(), chain.decode));
        self.branches.push(ChainDraft { name, nodes: chain.nodes });
        self
    }
}

impl<I, T: Send + 'static> Join<I, T> {
    /// Adds the join: a task that gets the outputs of all branches.
    pub fn join<M, H>(self, id: impl Into<String>, task: H) -> Builder<I, H::Output>
    where
        H: Handler<M, T, Output: Output>,
    {
        self.builder.then(id, task)
    }
}

impl<O, T> std::fmt::Debug for Fork<O, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fork({} branches)", self.branches.len())
    }
}

impl<O, X> std::fmt::Debug for NamedFork<O, X> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NamedFork({} branches)", self.branches.len())
    }
}

impl<I, T> std::fmt::Debug for Join<I, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.builder.fmt(f)
    }
}
