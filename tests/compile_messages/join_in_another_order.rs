// A join whose parts are in another order than the branches.

use std::convert::Infallible;

use everstep::Workflow;

async fn double(n: u32) -> Result<u32, Infallible> {
    Ok(2 * n)
}

async fn show(n: u32) -> Result<String, Infallible> {
    Ok(n.to_string())
}

async fn join((text, _n): (String, u32)) -> Result<String, Infallible> {
    Ok(text)
}

fn main() {
    let _ = Workflow::builder_for::<u32>("w")
        .fork("both", |fork| {
            fork.branch("double", |branch| branch.then("double", double))
                .branch("show", |branch| branch.then("show", show))
        })
        .join("join", join)
        .build();
}
