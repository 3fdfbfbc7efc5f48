//! The limit of the disk: an append-only log whose one writer takes the queued records, appends
//! them and syncs once.

use std::fs::File;
use std::io::Write as _;
use std::sync::mpsc;
use std::time::Instant;

use everstep::Durability;
use tokio::sync::oneshot;

use crate::report::{Figures, Round, Written, figures};
use crate::{Failed, Options};

type Record = (Vec<u8>, oneshot::Sender<()>);

fn writer(records: &mpsc::Receiver<Record>, mut log: File, durability: Durability) -> std::io::Result<()> {
    while let Ok(first) = records.recv() {
        let mut bytes = first.0;
        let mut answers = vec![first.1];
        for (record, answer) in records.try_iter() {
            bytes.extend(record);
            answers.push(answer);
        }
        log.write_all(&bytes)?;
        if durability == Durability::Fsync {
            log.sync_data()?;
        }
        for answer in answers {
            let _ = answer.send(());
        }
    }
    Ok(())
}

/// Runs one round of the bare log.
pub(crate) async fn round(options: &Options, producers: usize) -> Result<Round, Failed> {
    let path = options.dir.join("bare-log");
    let log = File::create(&path)?;
    let (sender, records) = mpsc::channel::<Record>();
    let durability = options.durability();
    let thread = std::thread::spawn(move || writer(&records, log, durability));
    let until = Instant::now() + options.round();
    let (started, before) = (Instant::now(), Written::so_far());
    let mut tasks = Vec::new();
    for _ in 0..producers {
        let (sender, record) = (sender.clone(), vec![7; options.record_bytes]);
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < until {
                let (answer, durable) = oneshot::channel();
                let sent = Instant::now();
                if sender.send((record.clone(), answer)).is_err() || durable.await.is_err() {
                    break;
                }
                latencies.push(sent.elapsed());
            }
            latencies
        }));
    }
    drop(sender);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await?);
    }
    let elapsed = started.elapsed();
    thread.join().map_err(|_| "the log's writer panicked")??;
    std::fs::remove_file(&path)?;
    let written = Written::since(before);
    Ok(Round { steps: latencies.len(), count: latencies.len(), elapsed, latencies, written })
}

/// Measures the log with that many producers, then the rounds, then the log again, and prints the
/// figures. The first round is the warm-up. The round decides which steps count as tasks, and how
/// many an instance has.
pub(crate) async fn around(
    options: &Options,
    producers: usize,
    tasks: usize,
    mut measured: impl AsyncFnMut() -> Result<Round, Failed>,
) -> Result<(), Failed> {
    let before = round(options, producers).await?.per_s();
    measured().await?;
    let mut rounds = Vec::with_capacity(options.rounds);
    for _ in 0..options.rounds.max(1) {
        rounds.push(measured().await?);
    }
    let after = round(options, producers).await?.per_s();
    let figures = figures(options, rounds, f64::midpoint(before, after));
    Ok(Figures { tasks, in_flight: producers, ..figures }.print(options.json)?)
}

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(round(options, options.in_flight).await?);
    }
    let per_s = rounds.iter().map(Round::per_s).fold(0.0, f64::max);
    Ok(figures(options, rounds, per_s).print(options.json)?)
}
