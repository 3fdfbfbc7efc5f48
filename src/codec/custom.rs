//! A user's own codec, object-safe: serde's traits arrive type-erased.

use serde::de::DeserializeOwned;

/// A codec of the user's own: encodes any serde value and decodes it.
///
/// Register it with [`RuntimeBuilder::codec`](crate::RuntimeBuilder::codec). Its
/// [`id`](CustomCodec::id) is stored with every instance started with it, so the meaning of an id
/// must never change.
pub trait CustomCodec: Send + Sync + 'static {
    /// Returns the codec's id: from 128 to 255, unique among the codecs of a service.
    fn id(&self) -> u8;

    /// Returns a name for error messages.
    fn name(&self) -> &'static str;

    /// Encodes `value`.
    ///
    /// # Errors
    /// Any error of the format. Its text is not passed on, since it may repeat the payload.
    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, erased_serde::Error>;

    /// Makes a deserializer over `bytes`, calls `read` with it once, and then refuses bytes left
    /// over.
    ///
    /// # Errors
    /// The error that `read` returned, or any error of the format.
    fn decode(&self, bytes: &[u8], read: &mut DeserializeFn<'_>) -> Result<(), erased_serde::Error>;
}

/// The callback that [`CustomCodec::decode`] calls with its deserializer.
pub type DeserializeFn<'a> = dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error> + 'a;

pub(super) fn decode<T: DeserializeOwned>(codec: &dyn CustomCodec, bytes: &[u8]) -> Option<T> {
    let mut value = None;
    let read = codec.decode(bytes, &mut |deserializer| {
        value = Some(erased_serde::deserialize(deserializer)?);
        Ok(())
    });
    read.ok().and(value)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// JSON, with its bytes in reverse order.
    pub(in crate::codec) struct Reversed;

    impl CustomCodec for Reversed {
        fn id(&self) -> u8 {
            128
        }

        fn name(&self) -> &'static str {
            "reversed JSON"
        }

        fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, erased_serde::Error> {
            let mut bytes = serde_json::to_vec(value).map_err(serde::ser::Error::custom)?;
            bytes.reverse();
            Ok(bytes)
        }

        fn decode(&self, bytes: &[u8], read: &mut DeserializeFn<'_>) -> Result<(), erased_serde::Error> {
            let forward: Vec<u8> = bytes.iter().rev().copied().collect();
            let mut deserializer = serde_json::Deserializer::from_slice(&forward);
            read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut deserializer))?;
            deserializer.end().map_err(serde::de::Error::custom)
        }
    }
}
