//! Route: one arm of several, chosen by a key.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use super::Builder;
use super::draft::{About, ChainDraft, NodeDraft, NodeDraftKind};
use super::handler::ErasedTask;
use crate::codec::{Decode, Value};

/// Id of a route's default arm in paths.
const OTHERWISE: &str = "otherwise";

/// Key of a route: an enum without fields made by [`route_key!`](crate::route_key), a `bool`, or a
/// `String`.
pub trait RouteKey: Sized + Send + 'static {
    /// Returns all keys if they can be listed: a route then needs an arm for each, or a default
    /// arm.
    fn all() -> Option<Vec<Self>>;

    /// Returns the key's name, as used for arms and in paths.
    fn name(&self) -> Cow<'_, str>;
}

impl RouteKey for String {
    fn all() -> Option<Vec<Self>> {
        None
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl RouteKey for bool {
    fn all() -> Option<Vec<Self>> {
        Some(vec![true, false])
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(if *self { "true" } else { "false" })
    }
}

/// Declares an enum without fields that can be the key of a route. The name of a variant is the
/// name of its key.
///
/// ```
/// everstep::route_key! {
///     /// How large an order is.
///     #[derive(Clone, Copy, Debug, PartialEq)]
///     pub enum Size {
///         Small,
///         Large,
///     }
/// }
///
/// use everstep::RouteKey as _;
/// assert_eq!(Size::Large.name(), "Large");
/// assert_eq!(Size::all(), Some(vec![Size::Small, Size::Large]));
/// ```
#[macro_export]
macro_rules! route_key {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$of_variant:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$of_variant])* $variant,)+
        }

        impl $crate::RouteKey for $name {
            fn all() -> Option<Vec<Self>> {
                Some(vec![$(Self::$variant,)+])
            }

            fn name(&self) -> std::borrow::Cow<'_, str> {
                std::borrow::Cow::Borrowed(match self {
                    $(Self::$variant => stringify!($variant),)+
                })
            }
        }
    };
}

/// The arms of a route, which all return an `X`: made by [`Builder::route`].
pub struct Route<O, K, X> {
    about: Arc<About>,
    input: Decode<O>,
    arms: Vec<ChainDraft>,
    otherwise: Option<ChainDraft>,
    output: Option<Decode<X>>,
    key: PhantomData<fn(K)>,
}

impl<I, O: Send + 'static> Builder<I, O> {
    /// Adds a route: `key` reads the value that flows in and names the arm that gets it. All arms
    /// return the same type, which flows on unchanged; an arm without nodes passes its input on.
    ///
    /// The choice is recorded before the arm runs, so it is never made again after a crash. Keys of
    /// a closed type (an enum made by [`route_key!`](crate::route_key), a `bool`) each need an arm,
    /// or there must be a default arm ([`Route::otherwise`]); this is checked when the workflow is
    /// built. A `String` without an arm fails the instance with
    /// [`FailureKind::UnknownKey`](crate::FailureKind::UnknownKey). A panic of `key` is a failure
    /// too.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use everstep::Workflow;
    ///
    /// everstep::route_key! {
    ///     enum Parity { Even, Odd }
    /// }
    ///
    /// fn parity(n: &u32) -> Parity {
    ///     if n % 2 == 0 { Parity::Even } else { Parity::Odd }
    /// }
    /// async fn halve(n: u32) -> Result<u32, Infallible> {
    ///     Ok(n / 2)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let workflow = Workflow::builder_for::<u32>("halve evens")
    ///     .route("parity", parity, |route| {
    ///         route.arm(Parity::Even, |arm| arm.then("halve", halve)).arm(Parity::Odd, |arm| arm)
    ///     })
    ///     .build()?;
    /// assert_eq!((workflow.run_once(8).await?, workflow.run_once(7).await?), (4, 7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn route<K: RouteKey, X: Send + 'static>(
        mut self,
        id: impl Into<String>,
        key: impl Fn(&O) -> K + Send + Sync + 'static,
        arms: impl FnOnce(Route<O, K, X>) -> Route<O, K, X>,
    ) -> Builder<I, X> {
        let decide = ErasedTask::inner(self.decode.clone(), move |input, _| {
            let name = key(&input).name().into_owned();
            Ok(Value::leaf(Bytes::from(name), None))
        });
        let none = Route {
            about: Arc::clone(&self.about),
            input: self.decode.clone(),
            arms: Vec::new(),
            otherwise: None,
            output: None,
            key: PhantomData,
        };
        let Route { arms, otherwise, output, .. } = arms(none);
        let keys = K::all().map(|keys| keys.iter().map(|key| key.name().into_owned()).collect());
        self.add(id, NodeDraftKind::Route { decide, arms, otherwise, keys });
        // A route without arms does not build, so nothing is ever read.
        let output = output.unwrap_or_else(Decode::nothing);
        self.flowing(output)
    }
}

impl<O: Send + 'static, K: RouteKey, X: Send + 'static> Route<O, K, X> {
    /// Adds the arm for a key. Its nodes' paths begin with the route's id and the key's name.
    pub fn arm(mut self, key: impl Into<K>, chain: impl FnOnce(Builder<O, O>) -> Builder<O, X>) -> Self {
        let nodes = self.chain(chain);
        self.arms.push(ChainDraft { name: key.into().name().into_owned(), nodes });
        self
    }

    /// Adds the default arm, for every key without an arm. Its nodes' paths begin with the route's
    /// id and `otherwise`.
    pub fn otherwise(mut self, chain: impl FnOnce(Builder<O, O>) -> Builder<O, X>) -> Self {
        let nodes = self.chain(chain);
        self.otherwise = Some(ChainDraft { name: OTHERWISE.into(), nodes });
        self
    }

    fn chain(&mut self, chain: impl FnOnce(Builder<O, O>) -> Builder<O, X>) -> Vec<NodeDraft> {
        let chain = chain(Builder::within(&self.about, self.input.clone()));
        self.output = Some(match self.output.take() {
            Some(output) => output.or(&chain.decode),
            None => chain.decode,
        });
        chain.nodes
    }
}

impl<O, K, X> std::fmt::Debug for Route<O, K, X> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Route({} arms)", self.arms.len() + usize::from(self.otherwise.is_some()))
    }
}
