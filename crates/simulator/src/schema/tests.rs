//! Instances against a small validator, written independently of the code that makes them.

use serde_json::{Value, json};

use super::instance;

/// Checks that `value` fits `schema`.
fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = if reference == "#" {
            root
        } else {
            root.pointer(&reference[1..].replace("%20", " ")).unwrap()
        };
        fits(root, target, value)?;
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fits(root, part, value)?;
    }
    if let Some(constant) = schema.get("const") {
        if constant != value {
            return Err(format!("{value} is not {constant}"));
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        if !values.contains(value) {
            return Err(format!("{value} is not in {values:?}"));
        }
    }
    if let Some(branches) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        if !branches
            .iter()
            .any(|branch| fits(root, branch, value).is_ok())
        {
            return Err(format!("{value} fits no branch"));
        }
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let whole_number = kind == "integer" && kinds.contains(&"number");
    if !(kinds.is_empty() || kinds.contains(&kind) || whole_number) {
        return Err(format!("{value} is {kind}, expected {kinds:?}"));
    }
    if let Some(members) = value.as_object() {
        for key in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(key.as_str().unwrap()) {
                return Err(format!("{key} is missing"));
            }
        }
        for (key, member) in members {
            match schema["properties"].get(key) {
                Some(rules) => fits(root, rules, member)?,
                None if schema["additionalProperties"] == false => {
                    return Err(format!("{key} is not allowed"));
                }
                None => {}
            }
        }
    }
    if let Some(items) = value.as_array() {
        let length = items.len() as u64;
        if schema["minItems"]
            .as_u64()
            .is_some_and(|least| length < least)
            || schema["maxItems"]
                .as_u64()
                .is_some_and(|most| length > most)
        {
            return Err(format!("{length} items"));
        }
        let prefix = schema["prefixItems"].as_array();
        for (index, item) in items.iter().enumerate() {
            let rules = prefix
                .and_then(|prefix| prefix.get(index))
                .or(schema.get("items"));
            if let Some(rules) = rules {
                fits(root, rules, item)?;
            }
            if schema["uniqueItems"] == true && items[..index].contains(item) {
                return Err(format!("{item} is there twice"));
            }
        }
    }
    if let Some(number) = value.as_f64() {
        let inside = schema["minimum"]
            .as_f64()
            .is_none_or(|least| number >= least)
            && schema["maximum"].as_f64().is_none_or(|most| number <= most)
            && schema["exclusiveMinimum"]
                .as_f64()
                .is_none_or(|least| number > least)
            && schema["exclusiveMaximum"]
                .as_f64()
                .is_none_or(|most| number < most)
            && schema["multipleOf"]
                .as_f64()
                .is_none_or(|step| ((number / step).round() - number / step).abs() < 1e-9);
        if !inside {
            return Err(format!("{number} is out of bounds"));
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if schema["minLength"]
            .as_u64()
            .is_some_and(|least| length < least)
            || schema["maxLength"]
                .as_u64()
                .is_some_and(|most| length > most)
        {
            return Err(format!("{length} characters"));
        }
    }
    Ok(())
}

/// Objects within objects, all of them required.
fn deep(levels: usize) -> Value {
    let mut schema = json!({"type": "integer"});
    for _ in 0..levels {
        schema = json!({"type": "object", "properties": {"inner": schema}, "required": ["inner"], "additionalProperties": false});
    }
    schema
}

#[test]
fn strings_follow_pattern_and_format() {
    let schema = json!({"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}\\d{3}$"}, "day": {"type": "string", "format": "date"}}, "required": ["code", "day"]});
    let made = instance(&schema, 3);
    let code = made["code"].as_str().unwrap();
    assert_eq!(code.len(), 5, "{made}");
    assert!(code[..2].chars().all(|c| c.is_ascii_uppercase()), "{made}");
    assert!(code[2..].chars().all(|c| c.is_ascii_digit()), "{made}");
    assert!(
        made["day"].as_str().unwrap().starts_with("2026-03-"),
        "{made}"
    );
}

#[test]
fn instances_fit_their_schema() {
    let schemas = [
        json!({"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}, "required": ["city", "unit"], "additionalProperties": false}),
        json!({"type": "integer", "minimum": 3, "maximum": 5}),
        json!({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}),
        json!({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 20}),
        json!({"type": "integer", "minimum": -20, "maximum": -10}),
        json!({"type": "number", "minimum": 0.001, "maximum": 0.002}),
        json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
        json!({"type": "number", "maximum": -5}),
        json!({"type": "array", "items": {"type": "boolean"}, "minItems": 5, "maxItems": 6}),
        json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
        json!({"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": true}),
        json!({"type": "string", "minLength": 50}),
        json!({"type": "string", "maxLength": 2}),
        json!({"type": ["string", "null"]}),
        json!({"type": "null"}),
        json!({"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}]}),
        json!({"type": "object", "required": ["anything"]}),
        json!({"type": "object", "properties": {"deep": {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}, "minItems": 1}}, "required": ["list"]}}, "required": ["deep"]}),
        json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["value", "next"], "additionalProperties": false}}}),
        json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["children"]}),
        // What SDKs make of optional fields, enums and nested models.
        json!({"type": "object", "properties": {"level": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}}}, "required": ["level", "tags"], "additionalProperties": false, "$defs": {"Tag": {"type": "string", "enum": ["a", "b"]}}}),
        json!({"type": "object", "properties": {"kind": {"const": "x", "type": "string"}, "score": {"type": ["number", "null"]}}, "required": ["kind", "score"]}),
        json!({"type": "object", "properties": {"shade": {"allOf": [{"$ref": "#/definitions/Shade"}], "description": "a shade"}}, "required": ["shade"], "definitions": {"Shade": {"enum": [1, 2]}}}),
        json!({"type": ["string", "null"], "enum": ["x", null]}),
        json!({"allOf": [{"type": "string"}, {"maxLength": 3}, {"minLength": 2}]}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"a": {"minimum": 7}, "b": {"type": "boolean"}}, "required": ["b"]}]}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "additionalProperties": false}),
        json!({"$ref": "#/$defs/A", "required": ["x"], "$defs": {"A": {"type": "object", "properties": {"x": {"type": "integer"}}}}}),
        json!({"oneOf": [{"type": "object", "properties": {"kind": {"const": "circle"}, "radius": {"type": "number"}}, "required": ["kind", "radius"]}, {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "number"}}, "required": ["kind", "side"]}]}),
        json!({"type": "object", "properties": {"untyped": {"description": "anything"}, "count": {"minimum": 3, "type": "integer"}, "any": true}, "required": ["untyped", "count", "any"]}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}, "required": ["x", "y"], "minProperties": 3}),
        json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "boolean"}, "minItems": 4}),
        json!({"type": "number", "multipleOf": 0.01, "minimum": 0.5, "maximum": 0.6}),
        json!({"type": "number", "multipleOf": 2.5, "exclusiveMinimum": 2.5, "maximum": 8}),
        json!({"type": "integer", "multipleOf": 2.5}),
        json!({"type": "integer", "minimum": 0.5, "maximum": 1.5}),
        json!({"type": ["integer", "string"], "minimum": 4, "maximum": 4}),
        json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "maxProperties": 1}),
        json!({"$ref": "#/$defs/a%20b", "$defs": {"a b": {"type": "boolean"}}}),
        deep(20),
    ];
    for schema in &schemas {
        for seed in 0..20 {
            let made = instance(schema, seed);
            fits(schema, schema, &made)
                .unwrap_or_else(|why| panic!("{made} does not fit {schema}: {why}"));
        }
    }
}

#[test]
fn hostile_schemas_are_bounded() {
    let mut wide =
        json!({"$defs": {"n": {"type": "object", "properties": {}}}, "$ref": "#/$defs/n"});
    for letter in 'a'..='z' {
        wide["$defs"]["n"]["properties"][letter.to_string()] = json!({"$ref": "#/$defs/n"});
    }
    let schemas = [
        wide,
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "array", "minItems": 1_000_000_000}}),
        json!({"type": "integer", "minimum": 1e300, "maximum": -1e300}),
        json!({"type": "string", "minLength": 1_000_000_000_000_u64}),
        json!("text"),
        json!(true),
    ];
    for schema in &schemas {
        let made = instance(schema, 1).to_string();
        assert!(made.len() < 4_000_000, "{} bytes for {schema}", made.len());
    }
}

#[test]
fn same_seed_makes_same_instance() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"]});
    assert_eq!(instance(&schema, 5), instance(&schema, 5));
    assert!((0..20).any(|seed| instance(&schema, seed) != instance(&schema, 5)));
}
