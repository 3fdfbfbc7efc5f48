//! Errors of a builder, all reported at once.

use std::borrow::Cow;

use everstep::{BuildError, Builder, Concurrency, LoopLimit, RouteKey, Workflow};

use crate::again;
use crate::common::{inc, same};

everstep::route_key! {
    /// A key with three values.
    #[derive(Clone, Copy, Debug)]
    enum Way { Left, Right, Straight }
}

/// A key whose list omits one value.
enum Forgetful {
    Known,
    Forgotten,
}

impl RouteKey for Forgetful {
    fn all() -> Option<Vec<Self>> {
        Some(vec![Self::Known])
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Known => "known",
            Self::Forgotten => "forgotten",
        })
    }
}

fn errors_of<O: Send + 'static>(builder: Builder<u32, O>) -> Vec<BuildError> {
    builder.build().map(drop).unwrap_err().0
}

fn w() -> Builder<u32, u32> {
    Workflow::builder_for("w")
}

fn duplicate(id: &str) -> BuildError {
    BuildError::DuplicateNode { id: id.into() }
}

fn empty(chain: &str) -> BuildError {
    BuildError::EmptyChain { chain: chain.into() }
}

#[test]
fn typed_route_without_all_arms_needs_a_default() {
    // One arm of three; one and a default; all; and a key that its own list does not name.
    let one = w().route("way", |_| Way::Left, |route| route.arm(Way::Left, |arm| arm));
    let keys = vec!["Right".into(), "Straight".into()];
    assert_eq!(errors_of(one), [BuildError::MissingArms { route: "way".into(), keys }]);
    let default = |route: everstep::Route<u32, Way, u32>| route.arm(Way::Right, |arm| arm).otherwise(|arm| arm);
    assert!(w().route("way", |_| Way::Left, default).build().is_ok());
    let all = [Way::Left, Way::Right, Way::Straight];
    let all = w().route("way", |_| Way::Left, |route| all.into_iter().fold(route, |route, key| route.arm(key, |a| a)));
    assert!(all.build().is_ok());
    let orphan = w().route(
        "way",
        |_| Forgetful::Known,
        |route| route.arm(Forgetful::Known, |arm| arm).arm(Forgetful::Forgotten, |arm| arm),
    );
    assert_eq!(errors_of(orphan), [BuildError::OrphanArm { route: "way".into(), key: "forgotten".into() }]);
    let neither = w().route("way", |n: &u32| *n == 0, |route| route.arm(true, |arm| arm));
    assert_eq!(errors_of(neither), [BuildError::MissingArms { route: "way".into(), keys: vec!["false".into()] }]);
}

#[test]
fn duplicate_id_is_refused_in_its_scope_only() {
    // One id twice in each kind of chain, and two branches or arms of one name. One id in different
    // scopes is fine.
    let twice = |chain: Builder<u32, u32>| chain.then("x", inc).then("x", inc);
    let once = |chain: Builder<u32, u32>| chain.then("x", inc);
    let fork = w().fork_by_name("f", |fork| fork.branch("a", twice).branch("a", once)).join("j", same);
    assert_eq!(errors_of(fork), [duplicate("f/a"), duplicate("f/a/x")]);
    let route = |route: everstep::Route<u32, bool, u32>| route.arm(true, twice).arm(true, once).arm(false, once);
    assert_eq!(errors_of(w().route("r", |_| true, route)), [duplicate("r/true"), duplicate("r/true/x")]);
    let body = w().repeat_or_exit("l", 1, |body| twice(body).then("again", again));
    assert_eq!(errors_of(body), [duplicate("l/x")]);
    let item = Workflow::builder_for::<Vec<u32>>("w").map("m", Concurrency::Unlimited, twice);
    assert_eq!(item.build().map(drop).unwrap_err().0, [duplicate("m/x")]);
    let scopes = once(w())
        .fork("f", |fork| fork.branch("x", once).branch("y", once))
        .join("j", crate::both)
        .route("r", |_| true, |route| route.arm(true, once).arm(false, once))
        .repeat_or_exit("l", 1, |body| once(body).then("again", again));
    assert!(scopes.build().is_ok());
    let otherwise = w().route("r", u32::to_string, |route| route.arm("otherwise", once).otherwise(once));
    assert_eq!(errors_of(otherwise), [duplicate("r/otherwise")]);
}

#[test]
fn empty_node_other_than_an_arm_is_refused() {
    // A fork, a route, a branch, a loop's body, a map's body and a child.
    let fork = w().fork("f", |fork| fork).join("j", |()| std::future::ready(Ok::<_, String>(1_u32)));
    assert_eq!(errors_of(fork), [BuildError::NoBranches { node: "f".into() }]);
    let route = w().route::<Way, u32>("r", |_| Way::Left, |route| route);
    assert_eq!(errors_of(route), [BuildError::NoBranches { node: "r".into() }]);
    let branch = w().fork("f", |fork| fork.branch("a", |branch| branch)).join("j", same::<(u32,)>);
    assert_eq!(errors_of(branch), [empty("f/a")]);
    let item = Workflow::builder_for::<Vec<u32>>("w").map("m", Concurrency::Unlimited, |item| item);
    assert_eq!(item.build().map(drop).unwrap_err().0, [empty("m")]);
    assert!(w().route("r", |_| true, |route| route.arm(true, |arm| arm).arm(false, |arm| arm)).build().is_ok());
}

#[test]
fn zero_iterations_and_zero_items_at_once_do_not_build() {
    // Both kinds of loop and of map, also within each other.
    let zero = |node: &str| BuildError::ZeroIterations { node: node.into() };
    let body = |body: Builder<u32, u32>| body.then("again", again);
    assert_eq!(errors_of(w().repeat("l", LoopLimit::AtMost(0), body)), [zero("l")]);
    assert_eq!(errors_of(w().repeat_or_exit("l", 0, body)), [zero("l")]);
    let item = |item: Builder<u32, u32>| item.repeat_or_exit("l", 0, body);
    let map = || Workflow::builder_for::<Vec<u32>>("w");
    let wanted = [BuildError::ZeroConcurrency { node: "m".into() }, zero("m/l")];
    assert_eq!(map().map("m", Concurrency::AtMost(0), item).build().map(drop).unwrap_err().0, wanted);
    assert_eq!(map().map_collect("m", Concurrency::AtMost(0), item).build().map(drop).unwrap_err().0, wanted);
}

#[test]
fn all_build_errors_are_reported_at_once_at_any_depth() {
    // One of each, within each other and in a child.
    let child = Workflow::builder_for::<u32>("child").wait_for_signal::<String>("w", "go").then("n", len).build();
    let child = child.unwrap();
    let workflow = w()
        .fork("f", |fork| {
            fork.branch("a", |branch| {
                branch.repeat_or_exit("l", 0, |body| {
                    let body = body.route(
                        "r",
                        |_| Way::Left,
                        |route| {
                            route.arm(Way::Left, |arm| arm.then("x", inc).then("x", inc)).arm(Way::Right, |arm| arm)
                        },
                    );
                    body.then("again", again)
                })
            })
            .branch("", |branch| branch.then("a/b", inc))
            .branch("c", |branch| branch)
        })
        .join("j", |(a, b, c): (u32, u32, u32)| std::future::ready(Ok::<_, String>(vec![a, b, c])))
        .map("m", Concurrency::AtMost(0), |item| item.wait_for_signal::<u32>("w", "go").child("child", &child))
        .then("m", |list: Vec<u32>| std::future::ready(Ok::<_, String>(list)));
    let errors = errors_of(workflow);
    let has = |wanted: &BuildError| errors.contains(wanted);
    assert!(has(&BuildError::ZeroIterations { node: "f/a/l".into() }), "{errors:?}");
    assert!(has(&BuildError::MissingArms { route: "f/a/l/r".into(), keys: vec!["Straight".into()] }), "{errors:?}");
    assert!(has(&duplicate("f/a/l/r/Left/x")) && has(&duplicate("m")), "{errors:?}");
    assert!(has(&empty("f/c")) && has(&BuildError::ZeroConcurrency { node: "m".into() }), "{errors:?}");
    let bad_names = errors.iter().filter(|error| matches!(error, BuildError::BadName { .. })).count();
    let signal_types = errors.iter().filter(|error| matches!(error, BuildError::SignalTypes { .. })).count();
    assert_eq!((bad_names, signal_types, errors.len()), (2, 1, 9), "{errors:?}");
}

async fn len(text: String) -> Result<u32, std::num::TryFromIntError> {
    text.len().try_into()
}
