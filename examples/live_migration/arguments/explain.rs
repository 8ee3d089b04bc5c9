//! Errors in the arguments, in words of this program: those of the parser contain values, and a value may be a password.

use std::error::Error as _;

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Says what is wrong, with the name of the option and without its value.
pub fn explain(error: &Error) -> String {
    let option = option(error);
    match error.kind() {
        ErrorKind::UnknownArgument if option.is_empty() => "an argument belongs to no option".to_owned(),
        ErrorKind::UnknownArgument => format!("unknown option {option}"),
        ErrorKind::InvalidValue if is_missing(error) => format!("{option} needs a value"),
        ErrorKind::InvalidValue => format!("{option} needs one of: {}", choices(error).join(", ")),
        ErrorKind::ValueValidation => match error.source() {
            // The messages of this program's own parsers, which have no values.
            Some(reason) => format!("{option} {reason}"),
            None => format!("{option} needs another value"),
        },
        ErrorKind::TooManyValues => format!("{option} takes no value"),
        ErrorKind::MissingRequiredArgument => "--source and --target must be given together".to_owned(),
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_owned(),
        _ => "the arguments cannot be understood".to_owned(),
    }
}

/// The name of the option that the error is about: `--walkers` of `--walkers <N>`. Empty if there is none.
fn option(error: &Error) -> &str {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "",
    };
    if !argument.starts_with("--") {
        return "";
    }
    let end = argument.find(|character: char| !(character.is_ascii_alphanumeric() || character == '-'));
    &argument[..end.unwrap_or(argument.len())]
}

fn is_missing(error: &Error) -> bool {
    match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.is_empty(),
        _ => true,
    }
}

fn choices(error: &Error) -> &[String] {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(choices)) => choices,
        _ => &[],
    }
}
