//! Reads a structure through trait objects, so that the code for it is compiled once.
//!
//! `serde` compiles a visitor for each way in which a format can hand out its values, and `bson` has a dozen. Here a visitor gets each value
//! as a [`Value`], through one function. Only the layer between `bson` and the traits below is compiled for each of the dozen, and it is the
//! same for all structures.
//!
//! `erased_serde` does that for formats of any kind, with thirty functions for each visitor. Of what it offers, records need neither maps
//! with keys other than strings nor enums with fields; both are errors.

use std::fmt::{self, Display};

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Reads a structure.
pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, Failure> {
    T::deserialize(&mut Format(Some(deserializer)) as &mut dyn Source<'de>)
}

/// Why a structure cannot be read.
#[derive(Debug)]
pub(super) struct Failure(String);

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl serde::de::Error for Failure {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// How a type asks for its value. `bson` hands out its own types by the way they ask.
#[derive(Clone, Copy)]
enum Request {
    Any,
    Bytes,
    Option,
    Newtype(&'static str),
}

enum Value<'a, 'de> {
    Unit,
    None,
    Bool(bool),
    I32(i32),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(&'de str),
    String(String),
    Bytes(&'de [u8]),
    ByteBuf(Vec<u8>),
    Some(&'a mut dyn Source<'de>),
    Newtype(&'a mut dyn Source<'de>),
    Seq(&'a mut dyn Elements<'de>),
    Map(&'a mut dyn Fields<'de>),
}

/// Something that holds one value, as `Deserializer`.
trait Source<'de> {
    fn read(&mut self, request: Request, target: &mut dyn Target<'de>) -> Result<(), Failure>;
}

/// What a value goes to, as `Visitor`.
trait Target<'de> {
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    fn put(&mut self, value: Value<'_, 'de>) -> Result<(), Stopped>;
}

/// The values of a sequence, as `SeqAccess`.
trait Elements<'de> {
    fn next(&mut self, seed: &mut dyn Seed<'de>) -> Result<bool, Failure>;
}

/// The names and values of a document, as `MapAccess`.
trait Fields<'de> {
    fn next_name(&mut self) -> Result<Option<String>, Failure>;
    fn value(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failure>;
}

/// What a value of a sequence or document becomes, as `DeserializeSeed`.
trait Seed<'de> {
    fn grow(&mut self, source: &mut dyn Source<'de>) -> Result<(), Stopped>;
}

/// A target or a seed has failed, and keeps why: the error that passes through the format would have its text around it at each level.
struct Stopped;

impl Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record cannot be read")
    }
}

// What is compiled for each type that is read.

/// A visitor or a seed, and then what it has made.
struct Slot<I, T> {
    input: Option<I>,
    result: Option<Result<T, Failure>>,
}

impl<I, T> Slot<I, T> {
    fn new(input: I) -> Self {
        Self {
            input: Some(input),
            result: None,
        }
    }

    fn fill(&mut self, make: impl FnOnce(I) -> Result<T, Failure>) -> Result<(), Stopped> {
        let result = make(self.input.take().ok_or(Stopped)?);
        let outcome = if result.is_ok() { Ok(()) } else { Err(Stopped) };
        self.result = Some(result);
        outcome
    }

    fn finish(self, outcome: Result<(), Failure>) -> Result<T, Failure> {
        match self.result {
            Some(Ok(value)) => outcome.map(|()| value),
            Some(Err(failure)) => Err(failure),
            None => Err(outcome.err().unwrap_or_else(|| Failure::custom("a value is missing"))),
        }
    }
}

impl<'de, V: Visitor<'de>> Target<'de> for Slot<V, V::Value> {
    fn put(&mut self, value: Value<'_, 'de>) -> Result<(), Stopped> {
        self.fill(|visitor| match value {
            Value::Unit => visitor.visit_unit(),
            Value::None => visitor.visit_none(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::I32(value) => visitor.visit_i32(value),
            Value::I64(value) => visitor.visit_i64(value),
            Value::U64(value) => visitor.visit_u64(value),
            Value::F64(value) => visitor.visit_f64(value),
            Value::Str(value) => visitor.visit_borrowed_str(value),
            Value::String(value) => visitor.visit_string(value),
            Value::Bytes(value) => visitor.visit_borrowed_bytes(value),
            Value::ByteBuf(value) => visitor.visit_byte_buf(value),
            Value::Some(source) => visitor.visit_some(source),
            Value::Newtype(source) => visitor.visit_newtype_struct(source),
            Value::Seq(elements) => visitor.visit_seq(elements),
            Value::Map(fields) => visitor.visit_map(fields),
        })
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.input {
            Some(visitor) => visitor.expecting(f),
            None => f.write_str("nothing more"),
        }
    }
}

impl<'de, S: DeserializeSeed<'de>> Seed<'de> for Slot<S, S::Value> {
    fn grow(&mut self, source: &mut dyn Source<'de>) -> Result<(), Stopped> {
        self.fill(|seed| seed.deserialize(source))
    }
}

impl<'de> dyn Source<'de> + '_ {
    fn get<V: Visitor<'de>>(&mut self, request: Request, visitor: V) -> Result<V::Value, Failure> {
        let mut slot = Slot::new(visitor);
        let outcome = self.read(request, &mut slot);
        slot.finish(outcome)
    }
}

impl<'de> Deserializer<'de> for &mut (dyn Source<'de> + '_) {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.get(Request::Any, visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.get(Request::Bytes, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.get(Request::Option, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Failure> {
        self.get(Request::Newtype(name), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_enum(String::deserialize(self)?.into_deserializer())
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool char str byte_buf unit unit_struct string identifier seq tuple tuple_struct struct map ignored_any
        i8 i16 i32 i64 u8 u16 u32 u64 f32 f64
    }
}

impl<'de> SeqAccess<'de> for &mut (dyn Elements<'de> + '_) {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let mut slot = Slot::new(seed);
        let outcome = self.next(&mut slot);
        if let Ok(false) = outcome {
            return Ok(None);
        }
        slot.finish(outcome.map(|_| ())).map(Some)
    }
}

impl<'de> MapAccess<'de> for &mut (dyn Fields<'de> + '_) {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let name = self.next_name()?;
        name.map(|name| seed.deserialize(Name(name))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let mut slot = Slot::new(seed);
        let outcome = self.value(&mut slot);
        slot.finish(outcome)
    }
}

/// The name of a field.
struct Name(String);

impl<'de> Deserializer<'de> for Name {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_string(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool char str bytes byte_buf unit unit_struct string identifier seq tuple tuple_struct struct map ignored_any
        i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 option enum
    }
}

// What is compiled for each way in which the format hands out values.

struct Format<D>(Option<D>);

impl<'de, D: Deserializer<'de>> Source<'de> for Format<D> {
    fn read(&mut self, request: Request, target: &mut dyn Target<'de>) -> Result<(), Failure> {
        let Some(deserializer) = self.0.take() else {
            return Err(Failure::custom("a value is read twice"));
        };
        let forward = Forward(target);
        let outcome = match request {
            Request::Any => deserializer.deserialize_any(forward),
            Request::Bytes => deserializer.deserialize_bytes(forward),
            Request::Option => deserializer.deserialize_option(forward),
            Request::Newtype(name) => deserializer.deserialize_newtype_struct(name, forward),
        };
        outcome.map_err(Failure::custom)
    }
}

/// Passes what the format hands out to a target.
struct Forward<'a, 'de>(&'a mut dyn Target<'de>);

impl<'de> Forward<'_, 'de> {
    fn put<E: serde::de::Error>(self, value: Value<'_, 'de>) -> Result<(), E> {
        self.0.put(value).map_err(E::custom)
    }
}

impl<'de> Visitor<'de> for Forward<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.put(Value::Unit)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.put(Value::None)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.put(Value::Bool(value))
    }

    fn visit_i32<E: serde::de::Error>(self, value: i32) -> Result<(), E> {
        self.put(Value::I32(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.put(Value::I64(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.put(Value::U64(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.put(Value::F64(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.put(Value::String(value.to_owned()))
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, value: &'de str) -> Result<(), E> {
        self.put(Value::Str(value))
    }

    fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<(), E> {
        self.put(Value::ByteBuf(value.to_owned()))
    }

    fn visit_borrowed_bytes<E: serde::de::Error>(self, value: &'de [u8]) -> Result<(), E> {
        self.put(Value::Bytes(value))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.put(Value::Some(&mut Format(Some(deserializer))))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.put(Value::Newtype(&mut Format(Some(deserializer))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<(), A::Error> {
        self.put(Value::Seq(&mut FormatSeq(elements)))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<(), A::Error> {
        self.put(Value::Map(&mut FormatMap(fields)))
    }
}

struct FormatSeq<A>(A);

impl<'de, A: SeqAccess<'de>> Elements<'de> for FormatSeq<A> {
    fn next(&mut self, seed: &mut dyn Seed<'de>) -> Result<bool, Failure> {
        let element = self.0.next_element_seed(ForwardSeed(seed));
        element.map(|element| element.is_some()).map_err(Failure::custom)
    }
}

struct FormatMap<A>(A);

impl<'de, A: MapAccess<'de>> Fields<'de> for FormatMap<A> {
    fn next_name(&mut self) -> Result<Option<String>, Failure> {
        self.0.next_key().map_err(Failure::custom)
    }

    fn value(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failure> {
        self.0.next_value_seed(ForwardSeed(seed)).map_err(Failure::custom)
    }
}

struct ForwardSeed<'a, 'de>(&'a mut dyn Seed<'de>);

impl<'de> DeserializeSeed<'de> for ForwardSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.grow(&mut Format(Some(deserializer))).map_err(D::Error::custom)
    }
}
