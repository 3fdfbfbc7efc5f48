//! Runs in memory: the cost of the machine without a store and without actors.

use std::time::Instant;

use everstep::Workflow;

use crate::instances::increment;
use crate::report::{Figures, Round, Written, figures};
use crate::{Failed, Options};

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let first = Workflow::builder_for::<u32>("memory");
    let chain = (0..options.tasks).fold(first, |chain, n| chain.then(format!("task{n}"), increment));
    let workflow = chain.build()?;
    let mut rounds = Vec::new();
    for _ in 0..=options.rounds.max(1) {
        let begun = Instant::now();
        let mut latencies = Vec::new();
        while begun.elapsed() < options.round() {
            let started = Instant::now();
            workflow.run_once(1).await?;
            latencies.push(started.elapsed());
        }
        let (elapsed, count) = (begun.elapsed(), latencies.len());
        rounds.push(Round { steps: count * options.tasks, count, elapsed, latencies, written: Written::default() });
    }
    let figures = figures(options, rounds.split_off(1), 0.0);
    Ok(Figures { store: "none", durability: "none".into(), in_flight: 1, ..figures }.print(options.json)?)
}
