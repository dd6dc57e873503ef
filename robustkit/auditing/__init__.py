"""Audits: can this robustness number be believed?"""
