//! A serializer in front of the codec's own, which notes known cases that serde writes but does not
//! read back unchanged.
//!
//! Everything is passed on unchanged: the bytes are those that the codec writes without it.
//! [`Doubt`] lists the cases; whether a doubt is justified is decided by reading the value back
//! (`read_back`).

use std::cell::Cell;
use std::fmt::Display;
use std::sync::LazyLock;

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// The doubt that a value reads back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// No known case.
    #[default]
    None,
    /// The value may not read back at all: it asked whether the format is human-readable
    /// (addresses, UUIDs), was flattened, left out a field, or has keys that are not text in a
    /// format that has text keys only.
    Unreadable,
    /// The value may read back as another one: it has a `Some` of nothing, a number that is not
    /// finite or is wider than 64 bits, or bytes.
    Changed,
}

/// The notes taken while a value was serialized.
#[derive(Default)]
pub(super) struct Trace {
    doubt: Cell<Doubt>,
    somes: Cell<u64>,
    /// True if the format may be limited to text keys and finite numbers. MessagePack is not.
    is_poor: bool,
}

/// True if some crate of the program enables `arbitrary_precision` of `serde_json`, which reads any
/// number in a type that serde buffers as a map.
static NUMBERS_ARE_MAPS: LazyLock<bool> = LazyLock::new(|| {
    let written = rmp_serde::to_vec_named(&serde_json::Number::from(1_u8));
    !written.is_ok_and(|bytes| bytes.len() == 1)
});

impl Trace {
    /// Returns a trace for MessagePack.
    pub(super) fn rich() -> Self {
        Self::default()
    }

    /// Returns a trace for JSON or another format.
    pub(super) fn poor() -> Self {
        let doubt = if *NUMBERS_ARE_MAPS { Doubt::Unreadable } else { Doubt::None };
        Self { is_poor: true, doubt: Cell::new(doubt), somes: Cell::default() }
    }

    pub(super) fn doubt(&self) -> Doubt {
        self.doubt.get()
    }

    /// Returns how many times there was a `Some`, which leaves no bytes.
    pub(super) fn somes(&self) -> u64 {
        self.somes.get()
    }

    /// Returns the value, to be serialized under observation.
    pub(super) fn probe<'a, T: ?Sized>(&'a self, value: &'a T) -> Probed<'a, T> {
        Probed { value, trace: self, place: Place::Plain }
    }

    fn around<S>(&self, inner: S) -> Probe<'_, S> {
        Probe { inner, trace: self, place: Place::Plain }
    }

    fn raise(&self, doubt: Doubt) {
        self.doubt.set(self.doubt.get().max(doubt));
    }
}

/// The place of a value, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    /// Within a `Some`, or in newtypes within one.
    Some,
    /// The key of a map.
    Key,
}

/// A value whose serialization is observed.
pub(super) struct Probed<'a, T: ?Sized> {
    value: &'a T,
    trace: &'a Trace,
    place: Place,
}

impl<T: Serialize + ?Sized> Serialize for Probed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Probe { inner: serializer, trace: self.trace, place: self.place })
    }
}

/// A wrapper around the serializer, and around each of its serializers for compound values.
pub(super) struct Probe<'a, S> {
    inner: S,
    trace: &'a Trace,
    place: Place,
}

impl<S> Probe<'_, S> {
    /// Notes a value that is written as nothing, or as something that reads back as `None`.
    fn nothing(&self) {
        if self.place == Place::Some {
            self.trace.raise(Doubt::Changed);
        }
    }

    fn no_text(&self) {
        if self.place == Place::Key && self.trace.is_poor {
            self.trace.raise(Doubt::Unreadable);
        }
    }

    fn float(&self, is_finite: bool) {
        self.no_text();
        if !is_finite && self.trace.is_poor {
            self.trace.raise(Doubt::Changed);
        }
    }
}

macro_rules! numbers {
    ($($serialize:ident: $number:ty),*) => {
        $(fn $serialize(self, value: $number) -> Result<S::Ok, S::Error> {
            self.no_text();
            self.inner.$serialize(value)
        })*
    };
}

impl<'a, S: Serializer> Serializer for Probe<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Probe<'a, S::SerializeSeq>;
    type SerializeTuple = Probe<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Probe<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Probe<'a, S::SerializeTupleVariant>;
    type SerializeMap = Probe<'a, S::SerializeMap>;
    type SerializeStruct = Probe<'a, S::SerializeStruct>;
    type SerializeStructVariant = Probe<'a, S::SerializeStructVariant>;

    numbers! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    }

    fn serialize_i128(self, value: i128) -> Result<S::Ok, S::Error> {
        self.trace.raise(Doubt::Changed);
        self.inner.serialize_i128(value)
    }

    fn serialize_u128(self, value: u128) -> Result<S::Ok, S::Error> {
        self.trace.raise(Doubt::Changed);
        self.inner.serialize_u128(value)
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.float(value.is_finite());
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.float(value.is_finite());
        self.inner.serialize_f64(value)
    }

    fn serialize_char(self, value: char) -> Result<S::Ok, S::Error> {
        self.inner.serialize_char(value)
    }

    fn serialize_str(self, value: &str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_str(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.trace.raise(Doubt::Changed);
        self.inner.serialize_bytes(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.nothing();
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.trace.somes.set(self.trace.somes.get() + 1);
        self.inner.serialize_some(&Probed { value, trace: self.trace, place: Place::Some })
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.nothing();
        self.inner.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.nothing();
        self.inner.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error>
    where
        T: Serialize + ?Sized,
    {
        self.inner.serialize_newtype_struct(name, &Probed { value, trace: self.trace, place: self.place })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_variant(name, index, variant, &self.trace.probe(value))
    }

    fn serialize_seq(self, items: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Ok(self.trace.around(self.inner.serialize_seq(items)?))
    }

    fn serialize_tuple(self, items: usize) -> Result<Self::SerializeTuple, S::Error> {
        Ok(self.trace.around(self.inner.serialize_tuple(items)?))
    }

    fn serialize_tuple_struct(self, name: &'static str, items: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        Ok(self.trace.around(self.inner.serialize_tuple_struct(name, items)?))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        items: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Ok(self.trace.around(self.inner.serialize_tuple_variant(name, index, variant, items)?))
    }

    /// Flattened structs are written as maps of unknown length.
    fn serialize_map(self, items: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        if items.is_none() {
            self.trace.raise(Doubt::Unreadable);
        }
        Ok(self.trace.around(self.inner.serialize_map(items)?))
    }

    fn serialize_struct(self, name: &'static str, fields: usize) -> Result<Self::SerializeStruct, S::Error> {
        Ok(self.trace.around(self.inner.serialize_struct(name, fields)?))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        fields: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Ok(self.trace.around(self.inner.serialize_struct_variant(name, index, variant, fields)?))
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.trace.raise(Doubt::Unreadable);
        self.inner.is_human_readable()
    }
}

macro_rules! items {
    ($($composed:ident: $serialize:ident),*) => {
        $(impl<S: $composed> $composed for Probe<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $serialize<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.inner.$serialize(&self.trace.probe(value))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        })*
    };
}

items! {
    SerializeSeq: serialize_element, SerializeTuple: serialize_element, SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
}

macro_rules! fields {
    ($($composed:ident),*) => {
        $(impl<S: $composed> $composed for Probe<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
                self.inner.serialize_field(key, &self.trace.probe(value))
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
                self.trace.raise(Doubt::Unreadable);
                self.inner.skip_field(key)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        })*
    };
}

fields! { SerializeStruct, SerializeStructVariant }

impl<S: SerializeMap> SerializeMap for Probe<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.inner.serialize_key(&Probed { value: key, trace: self.trace, place: Place::Key })
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.inner.serialize_value(&self.trace.probe(value))
    }

    fn serialize_entry<K, V>(&mut self, key: &K, value: &V) -> Result<(), S::Error>
    where
        K: Serialize + ?Sized,
        V: Serialize + ?Sized,
    {
        let key = Probed { value: key, trace: self.trace, place: Place::Key };
        self.inner.serialize_entry(&key, &self.trace.probe(value))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}
