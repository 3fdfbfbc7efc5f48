// A loop whose `Again` carries another type than flows into its body.

use std::convert::Infallible;

use everstep::{LoopLimit, LoopResult, Workflow};

async fn halve(n: u32) -> Result<LoopResult<String, u32>, Infallible> {
    Ok(LoopResult::Again(n.to_string()))
}

fn main() {
    let _ = Workflow::builder_for::<u32>("w")
        .repeat("halve", LoopLimit::Unlimited, |body| body.then("step", halve))
        .build();
}
