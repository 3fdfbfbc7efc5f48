//! Payloads encrypted at rest: a custom codec that encrypts MessagePack with AES-256-GCM.
//!
//! ```sh
//! cargo run --example encrypted -- ./encrypted-data ./encrypted.keys
//! ```
//!
//! All values of a workflow pass through the codec: inputs, results, signals, values carried by
//! loops. Data of the engine stays readable: instance ids, names of workflows, nodes and signals,
//! times, who cancelled or paused and why, and the messages of failed tasks. Keep secrets out of
//! these. Sizes of payloads are visible too.
//!
//! A line of the key file is a key: its number, and 64 hex digits. The last key encrypts, all of
//! them decrypt. To rotate, add a line; remove the first only when no instance is left that was
//! started under it. An attacker with write access to the data directory can still replace one
//! payload with another of the same service: the codec is not told where a payload is stored.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aes_gcm::aead::{Aead as _, Generate as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use everstep::{
    BoxError, Codec, ConflictPolicy, CustomCodec, DeserializeFn, FileStore, Runtime, StartOptions, Workflow,
    erased_serde,
};
use serde::{Deserialize, Serialize};

/// Codec id, stored with every instance: its meaning must never change.
const CODEC: u8 = 129;
const NONCE_BYTES: usize = 12;
/// Deepest nesting of the MessagePack inside.
const DEPTH_MAX: usize = 128;

/// A codec whose payload is `key number, 1 byte | nonce, 12 bytes | ciphertext | tag, 16 bytes`.
/// The nonce is random: one key is safe for some four billion payloads.
struct Encrypted {
    newest: u8,
    keys: HashMap<u8, Aes256Gcm>,
}

impl Encrypted {
    /// Reads the keys from the text of a key file.
    fn new(text: &str) -> Result<Self, BoxError> {
        let (mut newest, mut keys) = (None, HashMap::new());
        for line in text.lines() {
            let (number, key) = line.split_once(' ').ok_or("a line of the key file is `number key`")?;
            let number: u8 = number.parse()?;
            keys.insert(number, Aes256Gcm::new_from_slice(&from_hex(key)?).map_err(|_| "a key has 32 bytes")?);
            newest = Some(number);
        }
        Ok(Self { newest: newest.ok_or("there is no key in the key file")?, keys })
    }
}

/// Returns an error that reveals nothing of the payload: Everstep passes no error text on, but
/// others might.
fn refused(why: &str) -> erased_serde::Error {
    serde::ser::Error::custom(why)
}

impl CustomCodec for Encrypted {
    fn id(&self) -> u8 {
        CODEC
    }

    fn name(&self) -> &'static str {
        "encrypted MessagePack"
    }

    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, erased_serde::Error> {
        let plain = rmp_serde::to_vec_named(value).map_err(|_| refused("it does not encode"))?;
        let (number, nonce) = ([self.newest], Nonce::generate());
        let key = self.keys.get(&self.newest).ok_or_else(|| refused("its key is not here"))?;
        let sealed = key.encrypt(&nonce, Payload { msg: &plain, aad: &number });
        let sealed = sealed.map_err(|_| refused("it does not encrypt"))?;
        Ok([&number[..], &nonce[..], &sealed].concat())
    }

    fn decode(&self, bytes: &[u8], read: &mut DeserializeFn<'_>) -> Result<(), erased_serde::Error> {
        let (number, rest) = bytes.split_first_chunk::<1>().ok_or_else(|| refused("it is too short"))?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(|| refused("it is too short"))?;
        let key = self.keys.get(&number[0]).ok_or_else(|| refused("its key is not here"))?;
        let plain = key.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: number });
        let plain = plain.map_err(|_| refused("it was encrypted with another key, or changed"))?;
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(&plain);
        deserializer.set_max_depth(DEPTH_MAX);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut deserializer))
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>, BoxError> {
    let pair = |at| Ok(u8::from_str_radix(text.get(at..at + 2).ok_or("a key has an even number of digits")?, 16)?);
    (0..text.len()).step_by(2).map(pair).collect()
}

/// Reads the key file; creates it with a random key if it is missing. A real service gets its keys
/// from its secret store.
fn keys(path: &Path) -> Result<String, BoxError> {
    if !path.exists() {
        let mut line = "1 ".to_owned();
        for byte in Key::<Aes256Gcm>::generate() {
            write!(line, "{byte:02x}")?;
        }
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{line}")?;
    }
    Ok(std::fs::read_to_string(path)?)
}

#[derive(Debug, Serialize, Deserialize)]
struct Patient {
    name: String,
    findings: String,
}

async fn summarise(patient: Patient) -> Result<String, Infallible> {
    Ok(format!("{}: {}", patient.name, patient.findings.to_uppercase()))
}

async fn sign((summary, doctor): (String, String)) -> Result<String, Infallible> {
    Ok(format!("{summary}, signed by {doctor}"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| "encrypted-data".to_owned());
    let key_file = arguments.next().unwrap_or_else(|| "encrypted.keys".to_owned());
    let codec = Codec::Custom(Arc::new(Encrypted::new(&keys(Path::new(&key_file))?)?));

    let workflow = Workflow::builder("report")
        .then("summarise", summarise)
        .wait_for_signal_keeping::<String>("signature", "sign")
        .then("sign", sign)
        .build()?;
    let store = FileStore::open(&directory).await?;
    let runtime = Runtime::builder(store).register(&workflow).codec(codec).start().await?;

    let patient = Patient { name: "Wilhelmina".to_owned(), findings: "a broken heart".to_owned() };
    let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
    // With a key other than that of an existing instance this is a typed error, and the instance
    // stays unchanged.
    match runtime.start_with(&workflow, "report-7", patient, options).await {
        Ok(started) => {
            if started.existing.is_none() {
                started.handle.signal("sign", &"Doctor Faustus".to_owned()).await?;
            }
            println!("result: {}", started.handle.result().await?);
        }
        Err(error) => println!("not readable: {error}"),
    }
    runtime.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
