// A loop's body that does not return a `LoopResult`.

use std::convert::Infallible;

use everstep::{LoopLimit, Workflow};

async fn halve(n: u32) -> Result<u32, Infallible> {
    Ok(n / 2)
}

fn main() {
    let _ = Workflow::builder_for::<u32>("w")
        .repeat("halve", LoopLimit::Unlimited, |body| body.then("step", halve))
        .build();
}
