//! The description of the API in OpenAPI 3.1, made from the table of routes.

use axum::http::Method;
use serde_json::Value;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{
    Components, InfoBuilder, OpenApiBuilder, PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
};
use utoipa::{PartialSchema, ToSchema};

use crate::console::http::routes::{Answer, Parameter, Route};

/// The crate's own schema, whose definitions the description takes over.
const FORMAT: &str = include_str!("../../docs/format.schema.json");

/// Defines functions that refer to a definition of the crate's schema.
macro_rules! refer {
    ($($name:ident $($of:ident)?,)*) => {
        $(
            #[doc = concat!("Refers to `", refer!(@ $name $($of)?), "`", refer!(? $($of)?), ".")]
            pub(in crate::console) fn $name() -> RefOr<Schema> {
                refer!(! $name $($of)?)
            }
        )*
    };
    (@ $name:ident) => { stringify!($name) };
    (@ $name:ident $of:ident) => { stringify!($of) };
    (?) => { "" };
    (? $of:ident) => { " or null" };
    (! $name:ident) => { named(stringify!($name)) };
    (! $name:ident $of:ident) => { optional(stringify!($of)) };
}

refer! {
    existing_data, verification, ddl_policy, throttle, selection, phase, cutover_step,
    optional_phase phase, optional_amount amount, optional_lease_owner lease_owner, optional_error error, optional_plan plan,
    optional_status status, optional_summary summary, optional_verify_report verify_report,
    plan, status, event,
}

/// Refers to a list of waits.
pub(in crate::console) fn waits() -> RefOr<Schema> {
    list("waiting")
}

/// Refers to a list of findings.
pub(in crate::console) fn findings() -> RefOr<Schema> {
    list("finding")
}

/// Refers to a list of collections.
pub(in crate::console) fn collections() -> RefOr<Schema> {
    list("collection")
}

/// An object whose fields are not described.
pub(in crate::console) fn object() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::Object).into()
}

fn named(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

fn optional(name: &str) -> RefOr<Schema> {
    let null = ObjectBuilder::new().schema_type(Type::Null);
    let both = utoipa::openapi::OneOfBuilder::new().item(named(name)).item(null);
    Schema::from(both).into()
}

fn list(name: &str) -> RefOr<Schema> {
    let items = utoipa::openapi::ArrayBuilder::new().items(named(name));
    Schema::from(items).into()
}

/// A schema with all those that it refers to.
#[derive(Clone)]
pub(super) struct Described {
    schema: RefOr<Schema>,
    components: Vec<(String, RefOr<Schema>)>,
}

impl Described {
    /// That of a type of the console.
    pub fn of<T: ToSchema>() -> Self {
        let mut components = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut components);
        Self {
            schema: named(&T::name()),
            components,
        }
    }

    /// That of a type of the crate, or one without a name.
    pub fn plain(schema: RefOr<Schema>) -> Self {
        Self {
            schema,
            components: Vec::new(),
        }
    }
}

/// Describes the routes.
pub(super) fn describe(routes: &[Route]) -> Value {
    let mut paths = PathsBuilder::new();
    let mut components = Described::of::<super::problem::Written<'_>>().components;
    for route in routes {
        let mut operation = OperationBuilder::new()
            .summary(Some(route.summary))
            .tag(route.tag)
            .operation_id(Some(route.name));
        for name in ["id"].iter().filter(|name| route.path.contains(&format!("{{{name}}}"))) {
            operation = operation.parameter(
                ParameterBuilder::new()
                    .name(*name)
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .schema(Some(text())),
            );
        }
        for parameter in route.parameters {
            operation = operation.parameter(described_parameter(parameter));
        }
        if let Some(body) = &route.body {
            components.extend(body.components.iter().cloned());
            let content = ContentBuilder::new().schema(Some(body.schema.clone())).build();
            let body = RequestBodyBuilder::new().content("application/json", content);
            operation = operation.request_body(Some(body.required(Some(Required::True)).build()));
        }
        let mut answers = Vec::new();
        for answer in &route.answers {
            components.extend(
                answer
                    .content
                    .iter()
                    .flat_map(|(_, described)| described.components.clone()),
            );
            answers.push((answer.status.to_string(), described_answer(answer)));
        }
        let problem = ContentBuilder::new().schema(Some(named("Problem"))).build();
        let problem = ResponseBuilder::new()
            .description("The request was refused, or has failed.")
            .content("application/problem+json", problem);
        answers.push(("default".to_owned(), problem.build()));
        for (status, answer) in answers {
            operation = operation.response(status, answer);
        }
        let method = match route.method {
            Method::POST => HttpMethod::Post,
            Method::PUT => HttpMethod::Put,
            Method::DELETE => HttpMethod::Delete,
            _ => HttpMethod::Get,
        };
        paths = paths.path(route.path, PathItem::new(method, operation));
    }
    let mut all = Components::new();
    all.schemas.extend(components);
    let api = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("mongoferry console")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Live migration of MongoDB replica sets. Types with a name in lower case are those of the crate.",
                ))
                .license(Some(utoipa::openapi::License::new("Apache-2.0"))),
        )
        .paths(paths)
        .components(Some(all))
        // Relative to this description.
        .servers(Some([utoipa::openapi::Server::new("../..")]))
        .build();
    let mut written = serde_json::to_value(api).unwrap_or_default();
    take_over_format(&mut written);
    written
}

fn described_parameter(parameter: &Parameter) -> ParameterBuilder {
    let required = if parameter.required {
        Required::True
    } else {
        Required::False
    };
    ParameterBuilder::new()
        .name(parameter.name)
        .parameter_in(ParameterIn::Query)
        .required(required)
        .description(Some(parameter.description))
        .schema(Some(match parameter.is_number {
            true => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).into(),
            false => text(),
        }))
}

fn described_answer(answer: &Answer) -> utoipa::openapi::Response {
    let mut response = ResponseBuilder::new().description(answer.description);
    if let Some((kind, described)) = &answer.content {
        let content = ContentBuilder::new().schema(Some(described.schema.clone())).build();
        response = response.content(*kind, content);
    }
    response.build()
}

fn text() -> RefOr<Schema> {
    <String as PartialSchema>::schema()
}

/// Adds the definitions of the crate's schema to the components.
fn take_over_format(api: &mut Value) {
    let format: Value = serde_json::from_str(FORMAT).unwrap_or_default();
    let Some(definitions) = format["$defs"].as_object() else {
        return;
    };
    for (name, definition) in definitions {
        let mut definition = definition.clone();
        redirect(&mut definition);
        // A type of the console has a name in upper case.
        api["components"]["schemas"][name] = definition;
    }
}

/// Lets references lead to the components.
fn redirect(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/$defs/")
            {
                *reference = format!("#/components/schemas/{name}");
            }
            fields.values_mut().for_each(redirect);
        }
        Value::Array(items) => items.iter_mut().for_each(redirect),
        _ => {}
    }
}

/// The description of the description itself.
pub(super) fn of_itself() -> Described {
    Described::plain(object())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::console::http::table::routes;

    fn references<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                into.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, into));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, into)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let api = describe(&routes(true));
        assert_eq!(api["openapi"], json!("3.1.0"));
        let mut found = Vec::new();
        references(&api, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(api.pointer(pointer).is_some(), "{reference}");
        }
    }
}
