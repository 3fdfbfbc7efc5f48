//! An actor that is busy for long gets one `Stop`.

use std::sync::atomic::AtomicU32;

use ractor::{Actor, ActorProcessingErr};

use super::*;

/// An actor that counts its `Stop` messages, once the gate lets it handle them.
struct Busy {
    gate: Arc<Semaphore>,
    stops: Arc<AtomicU32>,
}

impl Actor for Busy {
    type Msg = InstanceMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<InstanceMessage>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<InstanceMessage>,
        message: InstanceMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        self.gate.acquire().await?.forget();
        if let InstanceMessage::Command(Command::Stop) = message {
            self.stops.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Method: the actor is busy in a handler while `stop_all` runs again and again, then handles its
/// messages.
#[tokio::test]
async fn stop_all_tells_a_busy_actor_once() {
    let (gate, stops) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
    let busy = Busy { gate: Arc::clone(&gate), stops: Arc::clone(&stops) };
    let (actor, handle) = Actor::spawn(None, busy, ()).await.unwrap();
    let registry = Registry::new(&Limits::default());
    let id = InstanceId::new("busy").unwrap();
    let resident = registry.resident().await.unwrap();
    let places = Arc::new(Semaphore::new(1));
    let entry = Entry { actor: actor.clone(), standing: Arc::default(), places, resident: Some(resident), rest: None };
    registry.instances.insert(id.clone(), entry);
    for _ in 0..3 {
        // As `stop_all` does each time an instance leaves.
        assert!(tokio::time::timeout(Duration::from_millis(30), registry.stop_all()).await.is_err());
    }
    gate.add_permits(Semaphore::MAX_PERMITS);
    actor.drain().unwrap();
    handle.await.unwrap();
    assert_eq!(stops.load(Ordering::SeqCst), 1);
}
