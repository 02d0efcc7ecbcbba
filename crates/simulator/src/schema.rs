//! Instances of a JSON schema, for the arguments of calls and for structured outputs.

use serde_json::{Map, Number, Value, json};

use crate::dice::Dice;

/// The depth down to which a schema is followed. Below it, the shortest instance is produced, which
/// ends recursive schemas.
const MAX_DEPTH: usize = 24;
/// The most values in one instance. Above it, optional parts are left out.
const MAX_VALUES: usize = 4096;
/// The hard limit of values in one instance, whatever the schema requires. It bounds the memory and
/// the time of the simulator.
const LAST_VALUE: usize = 20_000;
/// The most bytes of padding (`minLength`) in all strings of one instance.
const MAX_PADDING: usize = 1024 * 1024;

/// Makes an instance of `schema`, drawn from `seed`. Knows `type`, `enum`, `const`, `properties`,
/// `required`, `items`, `prefixItems`, `anyOf`, `oneOf`, `allOf`, `$ref` into `$defs`, the bounds
/// of numbers, strings and arrays, and the usual formats; `pattern` is not understood.
pub(crate) fn instance(schema: &Value, seed: u64) -> Value {
    let mut maker = Maker {
        root: schema,
        dice: Dice::new(seed),
        values: 0,
        padding: MAX_PADDING,
    };
    maker.make(schema, "value", 0)
}

struct Maker<'a> {
    root: &'a Value,
    dice: Dice,
    values: usize,
    padding: usize,
}

impl<'a> Maker<'a> {
    fn make(&mut self, schema: &'a Value, name: &str, depth: usize) -> Value {
        self.values += 1;
        if depth > MAX_DEPTH || self.values > LAST_VALUE {
            return Value::Null;
        }
        let Some(rules) = schema.as_object() else {
            return self.string(&Map::new(), name);
        };
        if let Some(target) = rules
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| self.resolve(reference))
        {
            return self.make(target, name, depth + 1);
        }
        if let Some(value) = rules.get("const") {
            return value.clone();
        }
        if let Some(values) = rules
            .get("enum")
            .and_then(Value::as_array)
            .filter(|values| !values.is_empty())
        {
            return values[self.pick(values.len())].clone();
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(branches) = rules.get(key).and_then(Value::as_array) {
                // At the depth limit the simplest branch is taken, so a schema that refers to
                // itself comes to an end.
                let null = branches.iter().find(|branch| branch["type"] == "null");
                let rich = branches.iter().find(|branch| branch["type"] != "null");
                let branch = if depth > MAX_DEPTH / 3 {
                    null.or(rich)
                } else {
                    rich.or(null)
                };
                if let Some(branch) = branch {
                    return self.make(branch, name, depth + 1);
                }
            }
        }
        if let Some(parts) = rules.get("allOf").and_then(Value::as_array) {
            return self.all_of(rules, parts, name, depth);
        }
        match self.kind(rules, depth) {
            "object" => self.object(rules, depth),
            "array" => self.array(rules, name, depth),
            "integer" => self.integer(rules),
            "number" => self.number(rules),
            "boolean" => Value::Bool(self.dice.roll().is_multiple_of(2)),
            "null" => Value::Null,
            _ => self.string(rules, name),
        }
    }

    fn kind(&self, rules: &'a Map<String, Value>, depth: usize) -> &'a str {
        match rules.get("type") {
            Some(Value::String(kind)) => kind,
            Some(Value::Array(kinds)) => {
                let nullable = kinds.iter().any(|kind| kind == "null");
                if nullable && depth > MAX_DEPTH / 3 {
                    return "null";
                }
                kinds
                    .iter()
                    .filter_map(Value::as_str)
                    .find(|kind| *kind != "null")
                    .unwrap_or("null")
            }
            _ if rules.contains_key("properties") => "object",
            _ if rules.contains_key("items") || rules.contains_key("prefixItems") => "array",
            _ if rules.contains_key("minimum") || rules.contains_key("maximum") => "number",
            _ if rules.is_empty() => "string",
            _ => "object",
        }
    }

    fn resolve(&self, reference: &str) -> Option<&'a Value> {
        match reference.strip_prefix('#')? {
            "" => Some(self.root),
            pointer => self.root.pointer(pointer),
        }
    }

    fn all_of(
        &mut self,
        rules: &'a Map<String, Value>,
        parts: &'a [Value],
        name: &str,
        depth: usize,
    ) -> Value {
        let mut whole = Map::new();
        for part in parts {
            match self.make(part, name, depth + 1) {
                Value::Object(members) => whole.extend(members),
                other => return other,
            }
        }
        if rules.contains_key("properties")
            && let Value::Object(members) = self.object(rules, depth)
        {
            whole.extend(members);
        }
        Value::Object(whole)
    }

    fn object(&mut self, rules: &'a Map<String, Value>, depth: usize) -> Value {
        let required: Vec<&str> = rules
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut members = Map::new();
        if let Some(properties) = rules.get("properties").and_then(Value::as_object) {
            for (key, schema) in properties {
                let optional = !required.contains(&key.as_str());
                let room = depth < MAX_DEPTH / 3 && self.values < MAX_VALUES;
                if optional && !room {
                    continue;
                }
                members.insert(key.clone(), self.make(schema, key, depth + 1));
            }
        }
        for key in required {
            if !members.contains_key(key) {
                let value = match rules.get("additionalProperties") {
                    Some(schema @ Value::Object(_)) => self.make(schema, key, depth + 1),
                    _ => self.string(&Map::new(), key),
                };
                members.insert(key.to_owned(), value);
            }
        }
        let least = bound(rules, "minProperties").unwrap_or(0).min(64);
        while members.len() < least {
            let key = format!("key_{}", members.len() + 1);
            let value = match rules.get("additionalProperties") {
                Some(schema @ Value::Object(_)) => self.make(schema, &key, depth + 1),
                _ => self.string(&Map::new(), &key),
            };
            members.insert(key, value);
        }
        Value::Object(members)
    }

    fn array(&mut self, rules: &'a Map<String, Value>, name: &str, depth: usize) -> Value {
        let least = bound(rules, "minItems").unwrap_or(0).min(1000);
        let most = bound(rules, "maxItems").unwrap_or(usize::MAX);
        let usual = if depth < MAX_DEPTH / 3 && self.values < MAX_VALUES {
            2
        } else {
            0
        };
        let length = usual.max(least).min(most.max(least));
        let singular = name.strip_suffix('s').unwrap_or(name);
        let first = rules
            .get("prefixItems")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let length = if first.is_empty() {
            length
        } else {
            length.max(first.len()).min(most)
        };
        let distinct = rules.get("uniqueItems") == Some(&Value::Bool(true));
        let mut items: Vec<Value> = Vec::with_capacity(length);
        let mut tries = 0;
        while items.len() < length && self.values <= LAST_VALUE {
            let item = match first.get(items.len()).or_else(|| rules.get("items")) {
                Some(schema) => self.make(schema, singular, depth + 1),
                None => self.string(&Map::new(), singular),
            };
            tries += 1;
            // An enum may have fewer values than items are wanted; the tries are bounded for that
            // case.
            if !distinct || !items.contains(&item) || tries > 8 * length {
                items.push(item);
            }
            if distinct && tries > 8 * length {
                break;
            }
        }
        if distinct {
            let mut seen: Vec<Value> = Vec::new();
            items.retain(|item| !seen.contains(item) && (seen.push(item.clone()), true).1);
        }
        Value::Array(items)
    }

    fn integer(&mut self, rules: &Map<String, Value>) -> Value {
        let (low, high) = number_range(rules, 1.0);
        let step = rules
            .get("multipleOf")
            .and_then(Value::as_f64)
            .map_or(1, |step| step.abs().round() as i64)
            .max(1);
        let low = (low.ceil() as i64)
            .div_euclid(step)
            .saturating_add(i64::from((low.ceil() as i64).rem_euclid(step) != 0));
        let high = (high.floor() as i64).div_euclid(step).max(low);
        let span = high.saturating_sub(low).saturating_add(1).max(1) as u64;
        Value::from(
            low.saturating_add((self.dice.roll() % span) as i64)
                .saturating_mul(step),
        )
    }

    fn number(&mut self, rules: &Map<String, Value>) -> Value {
        if rules.contains_key("multipleOf") {
            return self.integer(rules);
        }
        let (low, high) = number_range(rules, 1e-6);
        // Hundredths, so that the figures can be read, unless the range is finer than that.
        let share = (self.dice.roll() % 10_000) as f64 / 10_000.0;
        let exact = low + (high - low) * share;
        let rounded = (exact * 100.0).round() / 100.0;
        let value = if (low..=high).contains(&rounded) {
            rounded
        } else {
            exact
        };
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }

    fn string(&mut self, rules: &Map<String, Value>, name: &str) -> Value {
        self.values += 1;
        let format = rules
            .get("format")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let roll = self.dice.roll();
        let fixed = match format {
            "date-time" => Some(format!("2026-03-{:02}T09:30:00Z", roll % 28 + 1)),
            "date" => Some(format!("2026-03-{:02}", roll % 28 + 1)),
            "time" => Some("09:30:00Z".to_owned()),
            "duration" => Some("P1DT2H".to_owned()),
            "email" => Some("ada@example.com".to_owned()),
            "hostname" => Some("host.example.com".to_owned()),
            "ipv4" => Some(format!("192.0.2.{}", roll % 254 + 1)),
            "ipv6" => Some("2001:db8::1".to_owned()),
            "uuid" => Some("0f8fad5b-d9cb-469f-a165-70867728950e".to_owned()),
            "uri" => Some("https://example.com/".to_owned()),
            _ => None,
        };
        if let Some(value) = fixed {
            return Value::String(value);
        }
        let known = match name.to_lowercase().as_str() {
            "city" | "location" | "place" => {
                Some(["Paris", "Lagos", "Kyoto", "Lima"][(roll % 4) as usize])
            }
            "country" => Some(["France", "Nigeria", "Japan", "Peru"][(roll % 4) as usize]),
            "name" => Some(["Ada", "Grace", "Edsger", "Barbara"][(roll % 4) as usize]),
            "query" | "question" => Some("what is streaming?"),
            "language" | "lang" => Some("en"),
            "timezone" => Some("UTC"),
            _ => None,
        };
        let mut text: String =
            known.map_or_else(|| format!("{name} {}", roll % 100), str::to_owned);
        let least = bound(rules, "minLength").unwrap_or(0);
        let most = bound(rules, "maxLength").unwrap_or(usize::MAX);
        let length = text.chars().count();
        if length > most {
            text = text.chars().take(most).collect();
        } else if length < least {
            let padding = (least - length).min(self.padding);
            self.padding -= padding;
            text.extend(std::iter::repeat_n('x', padding));
        }
        Value::String(text)
    }

    fn pick(&mut self, length: usize) -> usize {
        (self.dice.roll() % length.max(1) as u64) as usize
    }
}

fn bound(rules: &Map<String, Value>, key: &str) -> Option<usize> {
    rules
        .get(key)
        .and_then(Value::as_u64)
        .map(|bound| bound as usize)
}

/// The closed range a number may lie in; an open bound is moved in by `epsilon`.
fn number_range(rules: &Map<String, Value>, epsilon: f64) -> (f64, f64) {
    let get = |key: &str| rules.get(key).and_then(Value::as_f64);
    let floor = match (get("minimum"), get("exclusiveMinimum")) {
        (Some(closed), Some(open)) => Some(closed.max(open + epsilon)),
        (closed, open) => closed.or(open.map(|open| open + epsilon)),
    };
    let ceiling = match (get("maximum"), get("exclusiveMaximum")) {
        (Some(closed), Some(open)) => Some(closed.min(open - epsilon)),
        (closed, open) => closed.or(open.map(|open| open - epsilon)),
    };
    match (floor, ceiling) {
        (Some(floor), Some(ceiling)) => (floor, ceiling.max(floor)),
        (Some(floor), None) => (floor, floor + 100.0),
        (None, Some(ceiling)) => (ceiling - 100.0, ceiling),
        (None, None) => (1.0, 100.0),
    }
}

/// What `response_format: {"type": "json_object"}` is answered with.
pub(crate) fn any_object(question: &str, messages: usize) -> Value {
    json!({"answer": "This is the Tokenwire simulator.", "question": question, "messages": messages, "streaming": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small judge, written apart from the maker: whether `value` fits `schema`.
    fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = if reference == "#" {
                root
            } else {
                root.pointer(&reference[1..]).unwrap()
            };
            return fits(root, target, value);
        }
        if let Some(values) = schema["enum"].as_array() {
            return if values.contains(value) {
                Ok(())
            } else {
                Err(format!("{value} is not in {values:?}"))
            };
        }
        if let Some(branches) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            return if branches
                .iter()
                .any(|branch| fits(root, branch, value).is_ok())
            {
                Ok(())
            } else {
                Err(format!("{value} fits no branch"))
            };
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
                        return Err(format!("{key} is too many"));
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
            for item in items {
                if schema.get("items").is_some() {
                    fits(root, &schema["items"], item)?;
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
                    .is_none_or(|step| (number / step).fract() == 0.0);
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

    #[test]
    fn every_instance_fits_its_schema() {
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
    fn hostile_schemas_come_to_an_end() {
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
    fn the_same_seed_makes_the_same_instance() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"]});
        assert_eq!(instance(&schema, 5), instance(&schema, 5));
        assert!((0..20).any(|seed| instance(&schema, seed) != instance(&schema, 5)));
    }
}
