"""Files of requests in OpenAI's batch form, answered by the server's paths without HTTP."""
