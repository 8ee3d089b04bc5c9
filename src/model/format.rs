//! How values are written as data for other programs; [`docs::format`](crate::docs::format) describes the format.
//!
//! The functions are for `#[serde(serialize_with)]`.

use std::time::{Duration, SystemTime};

use serde::ser::{SerializeSeq, Serializer};

use crate::model::{Namespace, shown};

/// A duration as whole milliseconds.
pub(crate) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A duration as whole milliseconds, or null.
pub(crate) fn optional_milliseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

/// A time in UTC as RFC 3339 has it, which ends with the year 9999.
pub(crate) fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match bson::DateTime::from_system_time(*time).try_to_rfc3339_string() {
        Ok(text) => serializer.serialize_str(&text),
        Err(_) => serializer.serialize_none(),
    }
}

/// A time like [`time`], or null.
pub(crate) fn optional_time<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// A number, or null if it is infinite or not a number.
pub(crate) fn finite<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match number.is_finite() {
        true => serializer.serialize_f64(*number),
        false => serializer.serialize_none(),
    }
}

/// A number like [`finite`], or null.
pub(crate) fn optional_finite<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    finite(&number.unwrap_or(f64::NAN), serializer)
}

/// The name that users know: that of a time-series collection instead of that of its buckets.
pub(crate) fn name<S: Serializer>(namespace: &Namespace, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(shown(namespace).as_str())
}

/// Names like [`name`].
pub(crate) fn names<S: Serializer>(namespaces: &[Namespace], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(namespaces.len()))?;
    for namespace in namespaces {
        list.serialize_element(shown(namespace).as_str())?;
    }
    list.end()
}

/// The text of a value, such as an `_id`, whose `Debug` form is canonical extended JSON.
pub(crate) fn debug<S: Serializer>(value: &impl std::fmt::Debug, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    struct Values {
        #[serde(serialize_with = "milliseconds")]
        short: Duration,
        #[serde(serialize_with = "milliseconds")]
        endless: Duration,
        #[serde(serialize_with = "time")]
        at: SystemTime,
        #[serde(serialize_with = "time")]
        never: SystemTime,
        #[serde(serialize_with = "finite")]
        rate: f64,
        #[serde(serialize_with = "finite")]
        infinite: f64,
        #[serde(serialize_with = "optional_finite")]
        unknown: Option<f64>,
        #[serde(serialize_with = "names")]
        names: Vec<Namespace>,
    }

    #[test]
    fn values_have_one_form_each() {
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let values = Values {
            short: Duration::from_micros(1_999),
            endless: Duration::MAX,
            at: second(1),
            never: second(1 << 40),
            rate: 0.5,
            infinite: f64::INFINITY,
            unknown: None,
            names: vec![Namespace::new("shop", "system.buckets.weather")],
        };
        let expected = serde_json::json!({
            "short": 1, "endless": u64::MAX, "at": "1970-01-01T00:00:01Z", "never": "9999-12-31T23:59:59.999999999Z", "rate": 0.5, "infinite": null,
            "unknown": null, "names": ["shop.weather"],
        });
        assert_eq!(serde_json::to_value(values).unwrap(), expected);
    }
}
