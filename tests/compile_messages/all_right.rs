// The programs beside this file without their mistakes: since this one compiles, the others fail
// for their own reasons.

use std::convert::Infallible;

use everstep::{Concurrency, LoopLimit, LoopResult, TaskContext, Workflow, task};

async fn length(text: String) -> Result<u32, Infallible> {
    Ok(text.len() as u32)
}

async fn double(n: u32) -> Result<u32, Infallible> {
    Ok(2 * n)
}

async fn show(n: u32, _context: TaskContext) -> Result<String, Infallible> {
    Ok(n.to_string())
}

async fn join((n, text): (u32, String)) -> Result<u32, Infallible> {
    Ok(n + text.len() as u32)
}

async fn halve(n: u32) -> Result<LoopResult<u32, u32>, Infallible> {
    Ok(if n % 2 == 0 { LoopResult::Again(n / 2) } else { LoopResult::Done(n) })
}

async fn list(n: u32) -> Result<Vec<u32>, Infallible> {
    Ok(vec![n])
}

fn main() {
    let workflow = Workflow::builder("all of it")
        .then("length", length)
        .fork("both", |fork| {
            fork.branch("n", |branch| branch.then("double", double)).branch("text", |branch| branch.then("show", show))
        })
        .join("join", task(join))
        .route(
            "large",
            |n: &u32| *n > 10,
            |route| route.arm(true, |arm| arm.then("double", double)).arm(false, |arm| arm),
        )
        .repeat("halve", LoopLimit::Unlimited, |body| body.then("step", halve))
        .then("list", list)
        .map("each", Concurrency::AtMost(2), |item| item.then("double", double))
        .build();
    drop(workflow);
}
