//! For any body requests do not panic, and what is accepted translates to JSON that is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::request::{ChatRequest, ChatSettings, RawObject, StreamRequest, check_idempotency_key};

fuzz_target!(|body: &[u8]| {
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = check_idempotency_key(text, "key");
    }
    match StreamRequest::parse(body) {
        Ok(StreamRequest::Chat(chat)) => {
            let _ = chat.request_fields();
            let renamed = chat.upstream_body(Some("m"), true);
            let again = ChatRequest::parse(&renamed).expect("the renamed body is a request");
            assert_eq!(again.model(), Some("m"));
            if let Ok(translated) = chat.to_responses("m") {
                RawObject::parse(&translated).expect("the translation is an object");
            }
        }
        Ok(StreamRequest::Responses(responses)) => {
            let _ = responses.request_fields();
            let _ = responses.fingerprint();
            let items = responses.input_items(&GenerationId::random());
            let history: Vec<_> = items.iter().map(|item| &**item).collect();
            for history in [&[][..], &history] {
                let relayed = responses.to_responses(history, "m");
                RawObject::parse(&relayed).expect("the relayed body is an object");
                if let Ok(translated) = responses.to_chat(history, "m", &ChatSettings::default()) {
                    RawObject::parse(&translated.body).expect("the translation is an object");
                }
            }
        }
        Ok(StreamRequest::Canonical(_)) | Err(_) => {}
    }
});
