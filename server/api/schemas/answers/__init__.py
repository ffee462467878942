"""What answers look like, for the OpenAPI document; tests hold real answers against these.

Routes build their JSON themselves (numbers that are not finite, stored bytes that are replayed);
nothing here runs while a call is answered.
"""
